package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// TestLifecycle lets the server rotate and expire keys by itself, also what fell due while it did not run, and tries what a
// key's state forbids.
func TestLifecycle(t *testing.T) {
	data := t.TempDir()
	p := launch(t, data)
	c := p.clients()
	ctx := t.Context()
	create := func(c clients, id string, change func(*kmsv1.Key)) *kmsv1.Key {
		t.Helper()
		k := &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}
		if change != nil {
			change(k)
		}
		k, err := c.keys.CreateKey(ctx, &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: id, Key: k})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	ahead := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(d)) }
	rotateAt := func(c clients, id string, next *timestamppb.Timestamp) {
		t.Helper()
		_, err := c.keys.UpdateKey(ctx, &kmsv1.UpdateKeyRequest{
			Key: &kmsv1.Key{Name: testRing + "/keys/" + id, NextRotationTime: next}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"next_rotation_time"}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	get := func(c clients, id string) *kmsv1.Key {
		t.Helper()
		k, err := c.keys.GetKey(ctx, &kmsv1.GetKeyRequest{Name: testRing + "/keys/" + id})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	auto := func(k *kmsv1.Key) { k.AutoRotation, k.RotationPeriod = true, durationpb.New(10*24*time.Hour) }

	t.Run("rotation", func(t *testing.T) {
		create(c, "rotates", auto)
		next := ahead(time.Second)
		rotateAt(c, "rotates", next)
		eventually(t, func() error {
			k := get(c, "rotates")
			late := k.GetRotateTime().AsTime().Sub(next.AsTime())
			if k.GetPrimary() != 2 || late < 0 || late > 30*time.Second || !k.GetNextRotationTime().AsTime().Equal(next.AsTime().Truncate(time.Microsecond).Add(10*24*time.Hour)) {
				return fmt.Errorf("not rotated at %s: %v", next.AsTime(), k)
			}
			return nil
		})
	})
	t.Run("expiry", func(t *testing.T) {
		k := create(c, "expires", nil)
		sealed, err := c.crypto.Encrypt(ctx, &kmsv1.EncryptRequest{Name: k.GetName(), Plaintext: []byte("secret")})
		if err != nil {
			t.Fatal(err)
		}
		expire := ahead(time.Second)
		if _, err := c.keys.UpdateKey(ctx, &kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: k.GetName(), ExpireTime: expire}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"expire_time"}}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(expire.AsTime()) + time.Millisecond)
		if k := get(c, "expires"); k.GetState() != kmsv1.Key_EXPIRED {
			t.Errorf("at its time the key is %s", k.GetState())
		}
		_, err = c.crypto.Encrypt(ctx, &kmsv1.EncryptRequest{Name: k.GetName(), Plaintext: []byte("secret")})
		wantError(t, err, connect.CodeFailedPrecondition, "KEY_EXPIRED")
		if opened, err := c.crypto.Decrypt(ctx, &kmsv1.DecryptRequest{Ciphertext: sealed.GetCiphertext()}); err != nil || string(opened.GetPlaintext()) != "secret" {
			t.Errorf("an expired key decrypts %v, %v", opened, err)
		}
		eventually(t, func() error { return doneBySystem(t, c, "expires", "ExpireKey") })
	})
	t.Run("archive", func(t *testing.T) {
		k := create(c, "archived", nil)
		if _, err := c.keys.ArchiveKey(ctx, &kmsv1.ArchiveKeyRequest{Name: k.GetName()}); err != nil {
			t.Fatal(err)
		}
		_, err := c.crypto.Encrypt(ctx, &kmsv1.EncryptRequest{Name: k.GetName()})
		wantError(t, err, connect.CodeFailedPrecondition, "KEY_ARCHIVED")
	})
	t.Run("refusals", func(t *testing.T) { lifecycleRefusals(t, c, p) })

	// What falls due while the server is away is done once when it is back.
	for _, id := range []string{"late", "late-expiry"} {
		create(c, id, auto)
	}
	rotateAt(c, "late", ahead(1500*time.Millisecond))
	if _, err := c.keys.UpdateKey(ctx, &kmsv1.UpdateKeyRequest{
		Key: &kmsv1.Key{Name: testRing + "/keys/late-expiry", ExpireTime: ahead(1500 * time.Millisecond)}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"expire_time"}},
	}); err != nil {
		t.Fatal(err)
	}
	due := time.Now().Add(1500 * time.Millisecond)
	p.terminate()
	time.Sleep(time.Until(due))
	p = launch(t, data)
	c = p.clients()
	eventually(t, func() error {
		if k := get(c, "late"); k.GetPrimary() != 2 {
			return fmt.Errorf("late: the primary version is %d", k.GetPrimary())
		}
		return doneBySystem(t, c, "late", "RotateKey")
	})
	eventually(t, func() error { return doneBySystem(t, c, "late-expiry", "ExpireKey") })
	if k := get(c, "late"); k.GetPrimary() != 2 {
		t.Errorf("late work was done more than once: the primary version is %d", k.GetPrimary())
	}
	p.terminate()
}

// doneBySystem wants the service itself to have done something to a key, once.
func doneBySystem(t *testing.T, c clients, id, operation string) error {
	t.Helper()
	logs := activityOf(t, c, &kmsv1.GetKeyActivityLogsRequest{Name: testRing + "/keys/" + id, Operations: []string{operation}})
	if len(logs) != 1 || logs[0].GetPrincipal() != "system" || logs[0].GetRequestType() != kmsv1.ActivityLog_SYSTEM || logs[0].GetOutcome() != kmsv1.ActivityLog_OK {
		return fmt.Errorf("%s of %s is recorded as %v", operation, id, logs)
	}
	return nil
}

// lifecycleRefusals: each gets its code and its reason, and changes nothing.
func lifecycleRefusals(t *testing.T, c clients, p *process) {
	t.Helper()
	ctx := t.Context()
	names := map[string]string{}
	for _, id := range []string{"r-enabled", "r-disabled", "r-pending", "r-rotating", "r-bound"} {
		k, err := c.keys.CreateKey(ctx, &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: id, Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}})
		if err != nil {
			t.Fatal(err)
		}
		names[id[2:]] = k.GetName()
	}
	for _, err := range []error{
		second(c.keys.DisableKeyVersion(ctx, &kmsv1.DisableKeyVersionRequest{Name: names["disabled"] + "/versions/1", AllowPrimary: true})),
		second(c.keys.DisableKey(ctx, &kmsv1.DisableKeyRequest{Name: names["disabled"]})),
		second(c.keys.ScheduleKeyDeletion(ctx, &kmsv1.ScheduleKeyDeletionRequest{Name: names["pending"]})),
		second(c.keys.EnableAutoRotation(ctx, &kmsv1.EnableAutoRotationRequest{Name: names["rotating"]})),
		second(c.keys.AddUsageBinding(ctx, &kmsv1.AddUsageBindingRequest{Name: names["bound"], Resource: "billing/1"})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	revision := func() uint64 {
		info, err := c.system.GetServerInfo(ctx, &kmsv1.GetServerInfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return info.GetHeadRevision()
	}
	period := func(d time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			return second(c.keys.UpdateRotationPeriod(ctx, &kmsv1.UpdateRotationPeriodRequest{Name: names["rotating"], RotationPeriod: durationpb.New(d)}))
		}
	}
	wait := func(d time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			return second(c.keys.ScheduleKeyVersionDestruction(ctx, &kmsv1.ScheduleKeyVersionDestructionRequest{Name: names["enabled"] + "/versions/1", Wait: durationpb.New(d), AllowPrimary: true}))
		}
	}
	const day = 24 * time.Hour
	before := revision()
	for what, tt := range map[string]struct {
		try    func(context.Context) error
		code   connect.Code
		reason string
	}{
		"a period of 0":         {period(0), connect.CodeInvalidArgument, "BAD_FIELD"},
		"a period of 731 days":  {period(731 * day), connect.CodeInvalidArgument, "BAD_FIELD"},
		"a period of 1.5 days":  {period(36 * time.Hour), connect.CodeInvalidArgument, "BAD_FIELD"},
		"a wait below 24 hours": {wait(day - time.Second), connect.CodeInvalidArgument, "BAD_FIELD"},
		"a wait over 120 days":  {wait(121 * day), connect.CodeInvalidArgument, "BAD_FIELD"},
		"rotating a pending key": {func(ctx context.Context) error {
			return second(c.keys.RotateKey(ctx, &kmsv1.RotateKeyRequest{Name: names["pending"]}))
		}, connect.CodeFailedPrecondition, "KEY_PENDING_DELETION"},
		"enabling a version of a disabled key": {func(ctx context.Context) error {
			return second(c.keys.EnableKeyVersion(ctx, &kmsv1.EnableKeyVersionRequest{Name: names["disabled"] + "/versions/1"}))
		}, connect.CodeFailedPrecondition, "KEY_DISABLED"},
		"disabling the primary": {func(ctx context.Context) error {
			return second(c.keys.DisableKeyVersion(ctx, &kmsv1.DisableKeyVersionRequest{Name: names["enabled"] + "/versions/1"}))
		}, connect.CodeFailedPrecondition, "VERSION_IS_PRIMARY"},
		"restoring what is not scheduled": {func(ctx context.Context) error {
			return second(c.keys.RestoreKeyVersion(ctx, &kmsv1.RestoreKeyVersionRequest{Name: names["enabled"] + "/versions/1"}))
		}, connect.CodeFailedPrecondition, "VERSION_NOT_SCHEDULED"},
		"another period without rotation": {func(ctx context.Context) error {
			return second(c.keys.UpdateRotationPeriod(ctx, &kmsv1.UpdateRotationPeriodRequest{Name: names["enabled"], RotationPeriod: durationpb.New(day)}))
		}, connect.CodeFailedPrecondition, "AUTO_ROTATION_OFF"},
		"archiving what is in use": {func(ctx context.Context) error {
			return second(c.keys.ArchiveKey(ctx, &kmsv1.ArchiveKeyRequest{Name: names["bound"]}))
		}, connect.CodeFailedPrecondition, "KEY_IN_USE"},
		"a stale etag": {func(ctx context.Context) error {
			return second(c.keys.DisableAutoRotation(ctx, &kmsv1.DisableAutoRotationRequest{Name: names["rotating"], Etag: "r1"}))
		}, connect.CodeAborted, "ETAG_MISMATCH"},
	} {
		t.Run(what, func(t *testing.T) { wantError(t, tt.try(t.Context()), tt.code, tt.reason) })
	}
	status, answer := p.rest(t, "POST", "/api/v1/"+names["rotating"]+":updateRotationPeriod", `{"rotationPeriod":"63158400s"}`)
	if status != 400 || answer["error"].(map[string]any)["status"] != "INVALID_ARGUMENT" { //nolint:forcetypeassert // as every refusal has it
		t.Errorf("by REST: %d %v", status, answer)
	}
	if after := revision(); after != before {
		t.Errorf("refusals went from revision %d to %d", before, after)
	}
}

func second[T any](_ T, err error) error { return err }
