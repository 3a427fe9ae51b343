package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

type keysCmd struct {
	Create           createKeyCmd        `cmd:"" help:"Make a key."`
	Get              getKeyCmd           `cmd:"" help:"Show a key."`
	List             listKeysCmd         `cmd:"" help:"List the keys of a ring."`
	Count            countKeysCmd        `cmd:"" help:"Count the keys of a ring."`
	History          historyCmd          `cmd:"" help:"Show what the event log holds of a key, oldest first."`
	Watch            watchKeysCmd        `cmd:"" help:"Show each change of the keys of a ring, until interrupted."`
	Alias            aliasCmd            `cmd:"" help:"Give a key other names, and take them away."`
	Update           updateKeyCmd        `cmd:"" help:"Change what describes a key and what limits it."`
	Rotate           rotateKeyCmd        `cmd:"" help:"Add a version, which new ciphertexts are made with."`
	AutoRotation     autoRotationCmd     `cmd:"" help:"Say whether the service rotates a key by itself."`
	RotationPeriod   rotationPeriodCmd   `cmd:"" help:"Say how often it does."`
	Import           importKeyCmd        `cmd:"" help:"Give a key material from a file, wrapped on this machine."`
	PublicKey        publicKeyCmd        `cmd:"" help:"Write the public key of a version, or of the primary one."`
	Enable           enableKeyCmd        `cmd:"" help:"Let a disabled key be used again."`
	Disable          disableKeyCmd       `cmd:"" help:"Stop every use of a key, until it is enabled."`
	Archive          archiveKeyCmd       `cmd:"" help:"Let a key only decrypt."`
	Unarchive        unarchiveKeyCmd     `cmd:"" help:"End that."`
	Bindings         bindingsCmd         `cmd:"" help:"Say what depends on a key."`
	ScheduleDeletion scheduleDeletionCmd `cmd:"" help:"Stop every use of a key, and destroy it after a wait."`
	CancelDeletion   cancelDeletionCmd   `cmd:"" help:"Keep a key whose deletion is pending."`
	Delete           deleteKeyCmd        `cmd:"" help:"Destroy a key for ever, if its deletion is pending."`
}

// changeFlags belong to every command that changes something.
type changeFlags struct {
	RequestID string `placeholder:"UUID" help:"Repeat the change that was asked for with this id, instead of making another."`
}

// id is the request's: a fresh one, unless an earlier request is to be repeated.
func (f changeFlags) id() string {
	if f.RequestID != "" {
		return f.RequestID
	}
	return uuid.NewString()
}

// guardFlags belong to changes of what exists already.
type guardFlags struct {
	changeFlags
	Etag string `placeholder:"ETAG" help:"Make the change only if nothing else changed since this etag was shown."`
}

// keyArg names a key.
type keyArg struct {
	Key string `arg:"" help:"The key."`
}

// readFlags belong to reads of keys and versions.
type readFlags struct {
	MinRevision uint64 `placeholder:"REVISION" help:"Wait until the server knows at least this revision."`
}

// pageFlags belong to lists.
type pageFlags struct {
	Limit     int    `placeholder:"N" help:"Show at most so many."`
	PageToken string `placeholder:"TOKEN" help:"Go on where an earlier list ended."`
	Skip      int32  `placeholder:"N" help:"Leave out the first so many."`
}

// maxPage is the largest page that the API gives.
const maxPage = 1000

// pages calls next until it has no more or limit is reached; 0 is no limit. next takes the size and the token of a page
// and returns how many it got, and the token of the page after it.
func (f pageFlags) pages(limit int, next func(size int32, token string) (int, string, error)) error {
	if limit < 0 || f.Skip < 0 {
		return usage("--limit and --skip can't be less than 0")
	}
	token := f.PageToken
	for got := 0; ; {
		size := maxPage
		if limit > 0 {
			size = min(size, limit-got)
		}
		n, following, err := next(int32(size), token)
		if err != nil {
			return err
		}
		got += n
		if following == "" || (limit > 0 && got >= limit) {
			return nil
		}
		token = following
	}
}

// more tells how to see the rest of a list.
func (s *session) more(token string) {
	if token != "" {
		s.remark("there are more: --page-token %s", printable(token))
	}
}

type createKeyCmd struct {
	keyArg
	changeFlags
	formatFlags
	Purpose            purpose           `default:"ENCRYPT_DECRYPT" help:"What the key is for (${default})."`
	Algorithm          algorithm         `placeholder:"NAME" help:"How it is used; by default as is best for the purpose."`
	ProtectionLevel    protection        `placeholder:"LEVEL" help:"Where the clear key may be: HSM, in the token only, or SOFTWARE."`
	DisplayName        string            `placeholder:"TEXT" help:"A name for people."`
	Memo               string            `placeholder:"TEXT" help:"A note."`
	Label              map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"A label; may be given again."`
	SkipInitialVersion bool              `help:"Make the key without a version; rotate makes the first."`
	birthFlags
}

func (c *createKeyCmd) Run(ctx context.Context, s *session) error {
	parent, id, err := s.scope.newKey(c.Key)
	if err != nil {
		return err
	}
	key := &kmsv1.Key{
		Purpose: kmsv1.Key_Purpose(c.Purpose), Algorithm: kmsv1.Key_Algorithm(c.Algorithm),
		ProtectionLevel: kmsv1.Key_ProtectionLevel(c.ProtectionLevel),
		DisplayName:     c.DisplayName, Memo: c.Memo, Labels: c.Label,
	}
	c.give(key)
	return s.changeKey(c.formatFlags, func(cl *client) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.CreateKey, &kmsv1.CreateKeyRequest{
			Parent: parent, KeyId: id, RequestId: c.id(), SkipInitialVersion: c.SkipInitialVersion, Key: key,
		})
	})
}

// changeKey makes a change and shows the key as it is afterwards.
func (s *session) changeKey(f formatFlags, change func(*client) (*kmsv1.Key, error)) error {
	cl, err := s.client()
	if err != nil {
		return err
	}
	key, err := change(cl)
	if err != nil {
		return err
	}
	return s.printKey(f, key)
}

func (s *session) printKey(f formatFlags, key *kmsv1.Key) error {
	return s.print(f, key, func(r *rows) { describeKey(r, key) })
}

func describeKey(r *rows, k *kmsv1.Key) {
	r.field("name", k.GetName())
	r.field("uid", k.GetUid())
	r.field("state", k.GetState().String())
	r.field("deletion due", when(k.GetDeleteTime()))
	r.field("destroyed", when(k.GetDestroyTime()))
	r.field("purpose", k.GetPurpose().String())
	r.field("algorithm", k.GetAlgorithm().String())
	r.field("protection level", k.GetProtectionLevel().String())
	r.field("primary version", number(k.GetPrimary()))
	describeLife(r, k)
	r.field("display name", k.GetDisplayName())
	r.field("memo", k.GetMemo())
	r.field("aliases", strings.Join(k.GetAliases(), ", "))
	r.field("labels", labels(k.GetLabels()))
	r.field("created", when(k.GetCreateTime()))
	r.field("created by", k.GetCreator())
	r.field("rotated", when(k.GetRotateTime()))
	r.field("updated", when(k.GetUpdateTime()))
	r.field("revision", number(k.GetRevision()))
	r.field("etag", k.GetEtag())
}

func labels(m map[string]string) string {
	pairs := make([]string, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, name+"="+m[name])
	}
	return strings.Join(pairs, ", ")
}

type getKeyCmd struct {
	keyArg
	readFlags
	pastFlags
	formatFlags
}

func (c *getKeyCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	key, err := call(ctx, cl, cl.GetKey, past(c.pastFlags, &kmsv1.GetKeyRequest{Name: name, MinRevision: c.MinRevision}))
	if err != nil {
		return err
	}
	return s.printKey(c.formatFlags, key)
}

type listKeysCmd struct {
	readFlags
	pastFlags
	pageFlags
	formatFlags
	Filter        string `placeholder:"EXPRESSION" help:"Only those for which this holds, like 'state = ENABLED AND labels.team = \"payments\"' (AIP-160)."`
	OrderBy       string `placeholder:"FIELDS" help:"Fields to sort by, like 'create_time desc'."`
	ShowDestroyed bool   `help:"Also those that are destroyed."`
	Total         bool   `help:"Also how many there are."`
}

func (c *listKeysCmd) Run(ctx context.Context, s *session) error {
	ring, err := s.scope.ring()
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	all := &kmsv1.ListKeysResponse{}
	skip := c.Skip
	err = c.pages(c.Limit, func(size int32, token string) (int, string, error) {
		page, err := call(ctx, cl, cl.ListKeys, past(c.pastFlags, &kmsv1.ListKeysRequest{
			Parent: ring.String(), MinRevision: c.MinRevision, PageSize: size, PageToken: token, Skip: skip,
			IncludeTotalSize: c.Total, Filter: c.Filter, OrderBy: c.OrderBy, ShowDestroyed: c.ShowDestroyed,
		}))
		if err != nil {
			return 0, "", err
		}
		skip = 0 // was left out of the first page
		page.Keys = append(all.GetKeys(), page.GetKeys()...)
		n := len(page.Keys) - len(all.GetKeys())
		all = page
		return n, page.GetNextPageToken(), nil
	})
	if err != nil {
		return err
	}
	err = s.print(c.formatFlags, all, func(r *rows) {
		anyRing := ring.Ring == "-"
		r.add("KEY", "STATE", "ALGORITHM", "LEVEL", "PRIMARY", "CREATED", "DISPLAY NAME")
		for _, k := range all.GetKeys() {
			name := lastPart(k.GetName())
			if anyRing {
				name = k.GetName()
			}
			r.add(name, k.GetState().String(), k.GetAlgorithm().String(), k.GetProtectionLevel().String(),
				strconv.Itoa(int(k.GetPrimary())), when(k.GetCreateTime()), k.GetDisplayName())
		}
	})
	if err != nil {
		return err
	}
	s.total(c.Total, all.GetTotalSize())
	c.more(s, all.GetNextPageToken())
	return nil
}

type countKeysCmd struct {
	readFlags
	pastFlags
	formatFlags
	Filter        string `placeholder:"EXPRESSION" help:"Only those for which this holds, as with list."`
	ShowDestroyed bool   `help:"Also those that are destroyed."`
}

func (c *countKeysCmd) Run(ctx context.Context, s *session) error {
	ring, err := s.scope.ring()
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	resp, err := call(ctx, cl, cl.CountKeys, past(c.pastFlags, &kmsv1.CountKeysRequest{
		Parent: ring.String(), MinRevision: c.MinRevision, Filter: c.Filter, ShowDestroyed: c.ShowDestroyed,
	}))
	if err != nil {
		return err
	}
	return s.print(c.formatFlags, resp, func(r *rows) { r.add(strconv.FormatInt(resp.GetCount(), 10)) })
}

// total tells how many there are in all, if that was asked for.
func (s *session) total(asked bool, n int64) {
	if asked {
		s.remark("%d in all", n)
	}
}

type updateKeyCmd struct {
	keyArg
	guardFlags
	formatFlags
	DisplayName *string           `placeholder:"TEXT" help:"The new name for people; empty for none."`
	Memo        *string           `placeholder:"TEXT" help:"The new note; empty for none."`
	Label       map[string]string `mapsep:"none" xor:"labels" placeholder:"NAME=VALUE" help:"A label; may be given again. These replace all that there are."`
	NoLabels    bool              `xor:"labels" help:"Take all labels away."`
	limitFlags
}

func (c *updateKeyCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	key, mask := &kmsv1.Key{Name: name}, &fieldmaskpb.FieldMask{}
	if c.DisplayName != nil {
		key.DisplayName, mask.Paths = *c.DisplayName, append(mask.Paths, "display_name")
	}
	if c.Memo != nil {
		key.Memo, mask.Paths = *c.Memo, append(mask.Paths, "memo")
	}
	if c.NoLabels || len(c.Label) > 0 {
		key.Labels, mask.Paths = c.Label, append(mask.Paths, "labels")
	}
	c.give(key, mask)
	if len(mask.GetPaths()) == 0 {
		return usage("nothing to change: give --display-name, --memo, --label, --no-labels, --expire, --no-expire, --next-rotation, --max-uses or --managed-by")
	}
	return s.changeKey(c.formatFlags, func(cl *client) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.UpdateKey, &kmsv1.UpdateKeyRequest{Key: key, RequestId: c.id(), Etag: c.Etag, UpdateMask: mask})
	})
}

type rotateKeyCmd struct {
	keyArg
	guardFlags
	formatFlags
}

func (c *rotateKeyCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	return s.changeKey(c.formatFlags, func(cl *client) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.RotateKey, &kmsv1.RotateKeyRequest{Name: name, RequestId: c.id(), Etag: c.Etag})
	})
}

type enableKeyCmd struct {
	keyArg
	guardFlags
	formatFlags
}

func (c *enableKeyCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	return s.changeKey(c.formatFlags, func(cl *client) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.EnableKey, &kmsv1.EnableKeyRequest{Name: name, RequestId: c.id(), Etag: c.Etag})
	})
}

type disableKeyCmd struct {
	keyArg
	guardFlags
	formatFlags
}

func (c *disableKeyCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	return s.changeKey(c.formatFlags, func(cl *client) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.DisableKey, &kmsv1.DisableKeyRequest{Name: name, RequestId: c.id(), Etag: c.Etag})
	})
}

type scheduleDeletionCmd struct {
	keyArg
	guardFlags
	formatFlags
	Wait             period `placeholder:"TIME" help:"How long, 24h to 120d; the server's default is 72h."`
	RequireUnusedFor period `placeholder:"TIME" help:"Refuse if the key was used within this time."`
}

func (c *scheduleDeletionCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	resp, err := call(ctx, cl, cl.ScheduleKeyDeletion, &kmsv1.ScheduleKeyDeletionRequest{
		Name: name, RequestId: c.id(), Etag: c.Etag, Wait: c.Wait.proto(), RequireUnusedFor: c.RequireUnusedFor.proto(),
	})
	if err != nil {
		return err
	}
	err = s.print(c.formatFlags, resp, func(r *rows) {
		describeKey(r, resp.GetKey())
		switch {
		case resp.GetLastUseTime() != nil:
			r.field("last used", when(resp.GetLastUseTime()))
		case resp.GetTrackedSinceTime() != nil:
			r.field("last used", "never since "+when(resp.GetTrackedSinceTime()))
		}
	})
	if err != nil {
		return err
	}
	for _, w := range resp.GetWarnings() {
		s.remark("kmsctl: %s", printable(w))
	}
	return nil
}

// proto is the period as the API takes it: absent if there is none.
func (p period) proto() *durationpb.Duration {
	if p == 0 {
		return nil
	}
	return durationpb.New(time.Duration(p))
}

type cancelDeletionCmd struct {
	keyArg
	guardFlags
	formatFlags
	Enable bool `help:"Leave the key enabled instead of disabled."`
}

func (c *cancelDeletionCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	return s.changeKey(c.formatFlags, func(cl *client) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.CancelKeyDeletion, &kmsv1.CancelKeyDeletionRequest{
			Name: name, RequestId: c.id(), Etag: c.Etag, Enable: c.Enable,
		})
	})
}

type deleteKeyCmd struct {
	keyArg
	guardFlags
	formatFlags
	SkipWait bool `help:"Destroy it at once, even if no deletion is scheduled."`
	Yes      bool `short:"y" help:"Don't ask."`
}

func (c *deleteKeyCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	if !c.Yes {
		if err := s.confirm(ctx, name); err != nil {
			return err
		}
	}
	return s.changeKey(c.formatFlags, func(cl *client) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.DeleteKey, &kmsv1.DeleteKeyRequest{Name: name, RequestId: c.id(), Etag: c.Etag, SkipWait: c.SkipWait})
	})
}

// errNotConfirmed is a question that was not answered with what would have meant yes.
var errNotConfirmed = errors.New("not confirmed: nothing was changed")

// confirm asks on the terminal. Where there is none, it wants --yes.
func (s *session) confirm(ctx context.Context, name string) error {
	if !s.inTerminal {
		return usage("this destroys %s for ever: give --yes to say that it is meant", name)
	}
	id := lastPart(name)
	if _, err := fmt.Fprintf(s.err, "This destroys %s for ever. What it encrypted can't be decrypted any more.\nType %s to go on: ", name, id); err != nil {
		return err
	}
	answer, err := bufio.NewReader(s.input(ctx)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if strings.TrimSpace(answer) != id {
		return errNotConfirmed
	}
	return nil
}
