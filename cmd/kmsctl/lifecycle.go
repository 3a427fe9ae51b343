package main

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// future is a moment that is to come: what is a time ago for a moment is that far ahead.
type future struct{ moment }

// timestamp is the moment, seen from now; nil if there is none.
func (f *future) timestamp(now time.Time) *timestamppb.Timestamp {
	if f == nil {
		return nil
	}
	ahead := f.moment
	ahead.ago = -ahead.ago
	return ahead.timestamp(now)
}

// birthFlags are what a key can be made with, beside what describes it.
type birthFlags struct {
	AutoRotation   bool    `help:"Let the service rotate the key by itself."`
	RotationPeriod period  `placeholder:"DAYS" help:"How often it does, 1d to 730d; the server's default is 90d."`
	MaxUses        *int64  `placeholder:"N" help:"How many encryptions each version may make, 0 for any number; the server's default is 2^32 for AES-GCM."`
	Expire         *future `placeholder:"TIME" help:"From when on it only decrypts: in how long, like 90d, a day, or RFC 3339."`
	DestroyWait    period  `placeholder:"TIME" help:"How long its deletions wait, 24h to 120d; the server's default is 72h."`
	ImportOnly     bool    `help:"Let its material be imported only, never generated."`
	ManagedBy      string  `placeholder:"NAME" help:"What manages the key on its owner's behalf."`
}

// give completes a key that is to be made.
func (f birthFlags) give(k *kmsv1.Key) {
	k.AutoRotation, k.RotationPeriod, k.MaxUsesPerVersion = f.AutoRotation, f.RotationPeriod.proto(), f.MaxUses
	k.ExpireTime, k.DestroyWait = f.Expire.timestamp(time.Now()), f.DestroyWait.proto()
	k.ImportOnly, k.ManagedBy = f.ImportOnly, f.ManagedBy
}

// limitFlags are what of that can be changed later.
type limitFlags struct {
	MaxUses      *int64  `placeholder:"N" help:"How many encryptions each version may make, those made already included; 0 for any number."`
	Expire       *future `xor:"expire" placeholder:"TIME" help:"From when on it only decrypts: in how long, like 90d, a day, or RFC 3339."`
	NoExpire     bool    `xor:"expire" help:"Let it never expire."`
	NextRotation *future `placeholder:"TIME" help:"When the service rotates it next: in how long, a day, or RFC 3339."`
	ManagedBy    *string `placeholder:"NAME" help:"What manages the key on its owner's behalf; empty for nothing."`
}

// give completes an update.
func (f limitFlags) give(k *kmsv1.Key, mask *fieldmaskpb.FieldMask) {
	if f.MaxUses != nil {
		k.MaxUsesPerVersion, mask.Paths = f.MaxUses, append(mask.Paths, "max_uses_per_version")
	}
	if f.Expire != nil || f.NoExpire {
		k.ExpireTime, mask.Paths = f.Expire.timestamp(time.Now()), append(mask.Paths, "expire_time")
	}
	if f.NextRotation != nil {
		k.NextRotationTime, mask.Paths = f.NextRotation.timestamp(time.Now()), append(mask.Paths, "next_rotation_time")
	}
	if f.ManagedBy != nil {
		k.ManagedBy, mask.Paths = *f.ManagedBy, append(mask.Paths, "managed_by")
	}
}

// describeLife adds what limits a key and what the service does to it by itself.
func describeLife(r *rows, k *kmsv1.Key) {
	if k.GetAutoRotation() {
		r.field("rotated every", days(k.GetRotationPeriod()))
	}
	r.field("next rotation", when(k.GetNextRotationTime()))
	if k.GetExpireTime() != nil {
		r.field("expires", when(k.GetExpireTime()))
	}
	r.field("uses per version", number(k.GetMaxUsesPerVersion()))
	if k.GetDestroyWait() != nil {
		r.field("deletions wait", k.GetDestroyWait().AsDuration().String())
	}
	r.field("import only", yes(k.GetImportOnly()))
	r.field("managed by", k.GetManagedBy())
}

// days shows a period of whole days.
func days(d *durationpb.Duration) string {
	return strconv.Itoa(int(d.AsDuration()/(24*time.Hour))) + "d"
}

type archiveKeyCmd struct {
	keyArg
	guardFlags
	formatFlags
}

func (c *archiveKeyCmd) Run(ctx context.Context, s *session) error {
	return s.changeNamedKey(c.keyArg, c.formatFlags, func(cl *client, name string) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.ArchiveKey, &kmsv1.ArchiveKeyRequest{Name: name, RequestId: c.id(), Etag: c.Etag})
	})
}

// changeNamedKey makes a change of a key that exists and shows the key as it is afterwards.
func (s *session) changeNamedKey(arg keyArg, f formatFlags, change func(*client, string) (*kmsv1.Key, error)) error {
	name, err := s.scope.key(arg.Key)
	if err != nil {
		return err
	}
	return s.changeKey(f, func(cl *client) (*kmsv1.Key, error) { return change(cl, name) })
}

type unarchiveKeyCmd struct {
	keyArg
	guardFlags
	formatFlags
	Enable bool `help:"Leave the key enabled instead of disabled."`
}

func (c *unarchiveKeyCmd) Run(ctx context.Context, s *session) error {
	return s.changeNamedKey(c.keyArg, c.formatFlags, func(cl *client, name string) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.UnarchiveKey, &kmsv1.UnarchiveKeyRequest{Name: name, RequestId: c.id(), Etag: c.Etag, Enable: c.Enable})
	})
}

type autoRotationCmd struct {
	Enable  enableAutoRotationCmd  `cmd:"" help:"Let the service rotate a key by itself."`
	Disable disableAutoRotationCmd `cmd:"" help:"End that."`
}

type enableAutoRotationCmd struct {
	keyArg
	guardFlags
	formatFlags
	Period period `placeholder:"DAYS" help:"How often, 1d to 730d; by default the key's last period, or 90d."`
}

func (c *enableAutoRotationCmd) Run(ctx context.Context, s *session) error {
	return s.changeNamedKey(c.keyArg, c.formatFlags, func(cl *client, name string) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.EnableAutoRotation, &kmsv1.EnableAutoRotationRequest{
			Name: name, RequestId: c.id(), Etag: c.Etag, RotationPeriod: c.Period.proto(),
		})
	})
}

type disableAutoRotationCmd struct {
	keyArg
	guardFlags
	formatFlags
}

func (c *disableAutoRotationCmd) Run(ctx context.Context, s *session) error {
	return s.changeNamedKey(c.keyArg, c.formatFlags, func(cl *client, name string) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.DisableAutoRotation, &kmsv1.DisableAutoRotationRequest{Name: name, RequestId: c.id(), Etag: c.Etag})
	})
}

type rotationPeriodCmd struct {
	keyArg
	Period period `arg:"" help:"How often the service rotates the key, 1d to 730d. It begins now."`
	guardFlags
	formatFlags
}

func (c *rotationPeriodCmd) Run(ctx context.Context, s *session) error {
	return s.changeNamedKey(c.keyArg, c.formatFlags, func(cl *client, name string) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.UpdateRotationPeriod, &kmsv1.UpdateRotationPeriodRequest{
			Name: name, RequestId: c.id(), Etag: c.Etag, RotationPeriod: durationpb.New(time.Duration(c.Period)),
		})
	})
}

type createVersionCmd struct {
	keyArg
	guardFlags
	formatFlags
	MakePrimary bool `help:"Make new ciphertexts with it."`
}

func (c *createVersionCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	v, err := call(ctx, cl, cl.CreateKeyVersion, &kmsv1.CreateKeyVersionRequest{
		Parent: name, RequestId: c.id(), Etag: c.Etag, MakePrimary: c.MakePrimary,
	})
	if err != nil {
		return err
	}
	return s.print(c.formatFlags, v, func(r *rows) { describeVersion(r, v) })
}

type setPrimaryCmd struct {
	keyArg
	Number int32 `arg:"" name:"version" help:"The number of the version."`
	guardFlags
	formatFlags
}

func (c *setPrimaryCmd) Run(ctx context.Context, s *session) error {
	return s.changeNamedKey(c.keyArg, c.formatFlags, func(cl *client, name string) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.SetPrimaryVersion, &kmsv1.SetPrimaryVersionRequest{Name: name, RequestId: c.id(), Etag: c.Etag, Version: c.Number})
	})
}

type scheduleDestructionCmd struct {
	versionArg
	guardFlags
	formatFlags
	Wait         period `placeholder:"TIME" help:"How long, 24h to 120d; by default the key's own wait, or 72h."`
	AllowPrimary bool   `help:"Even if new ciphertexts are made with it; they can't be made then."`
}

func (c *scheduleDestructionCmd) Run(ctx context.Context, s *session) error {
	return s.version(c.versionArg, c.formatFlags, func(cl *client, name string) (*kmsv1.KeyVersion, error) {
		return call(ctx, cl, cl.ScheduleKeyVersionDestruction, &kmsv1.ScheduleKeyVersionDestructionRequest{
			Name: name, RequestId: c.id(), Etag: c.Etag, Wait: c.Wait.proto(), AllowPrimary: c.AllowPrimary,
		})
	})
}

type restoreVersionCmd struct {
	versionArg
	guardFlags
	formatFlags
}

func (c *restoreVersionCmd) Run(ctx context.Context, s *session) error {
	return s.version(c.versionArg, c.formatFlags, func(cl *client, name string) (*kmsv1.KeyVersion, error) {
		return call(ctx, cl, cl.RestoreKeyVersion, &kmsv1.RestoreKeyVersionRequest{Name: name, RequestId: c.id(), Etag: c.Etag})
	})
}
