package eventstore

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keyledger/kms/domain"
	eventsv1 "github.com/keyledger/kms/proto/gen/events/v1"
)

var addFixtures = flag.Bool("add-fixtures", false, "write fixtures of stored bytes that do not exist yet; those that exist are never written")

func uid(b byte) domain.UID { return domain.UID{0: 1, 6: 0x70, 8: 0x80, 15: b} }

// samples holds one commit per event, every field set, as it must be readable for ever. Add to it; never change what is there.
func samples() map[string]Commit {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_901_000, time.UTC)
	name := domain.KeyName{Project: "default", Location: "local", Ring: "r", ID: "k"}
	base := Commit{
		Aggregate: KeyAggregate(name), KeyUID: uid(1), CommandID: uid(2), RequestID: uid(3), RequestHash: [32]byte{4}, Operation: "Operation",
		Caller: domain.Caller{
			Principal: "admin", Kind: domain.KindAdmin, Request: domain.RequestAPI, Address: netip.MustParseAddr("2001:db8::1"), UserAgent: "agent/1",
			RequestID: uid(5), ClientRequestID: "client's", CorrelationID: "correlation", TraceID: [16]byte{6},
		},
		GrantedBy: "admin", Time: at, Lineage: uid(7), Prev: [32]byte{8}, Protection: domain.HSM, Version: 9, LedgerTag: [32]byte{10},
		Duration: 11 * time.Microsecond, Revision: 12,
	}
	labels := map[string]string{"team": "payments"}
	out := map[string]Commit{"none": base}
	for name, e := range map[string]domain.Event{
		"key_created": domain.KeyCreated{
			UID: uid(1), Name: name, Purpose: domain.EncryptDecrypt, Algorithm: domain.AES256GCM, Protection: domain.HSM, DisplayName: "Display",
			Memo: "memo", Labels: labels, Creator: "admin", LedgerTag: [32]byte{10},
		},
		"key_version_added": domain.KeyVersionAdded{
			Version: 2, MaterialID: uid(13), Algorithm: domain.AES256GCM, Origin: domain.Generated, Fingerprint: []byte{14}, PublicKey: []byte{15}, BlobDigest: []byte{16},
		},
		"primary_version_set":    domain.PrimaryVersionSet{Version: 2},
		"key_enabled":            domain.KeyEnabled{},
		"key_disabled":           domain.KeyDisabled{},
		"key_version_enabled":    domain.KeyVersionEnabled{Version: 2},
		"key_version_disabled":   domain.KeyVersionDisabled{Version: 2},
		"key_deletion_scheduled": domain.KeyDeletionScheduled{DeleteTime: at.Add(time.Hour)},
		"key_deletion_canceled":  domain.KeyDeletionCanceled{},
		"key_destroyed":          domain.KeyDestroyed{},
		"key_updated":            domain.KeyUpdated{DisplayName: "Display", Memo: "memo", Labels: labels},
		"material_erased":        domain.MaterialErased{Version: 2, MaterialID: uid(13)},
		// Of an event that got more fields there is another sample, since what was stored without them stays as it is.
		"key_created_2": domain.KeyCreated{
			UID: uid(1), Name: name, Purpose: domain.EncryptDecrypt, Algorithm: domain.AES256GCM, Protection: domain.HSM, DisplayName: "Display",
			Memo: "memo", Labels: labels, Creator: "admin", LedgerTag: [32]byte{10}, ManagedBy: "manager", ImportOnly: true, RotationPeriod: 48 * time.Hour,
			NextRotationTime: at.Add(48 * time.Hour), MaxUsesPerVersion: 18, ExpireTime: at.Add(time.Hour), DestroyWait: 24 * time.Hour,
		},
		"key_version_added_2": domain.KeyVersionAdded{
			Version: 2, MaterialID: uid(13), Algorithm: domain.AES256GCM, Origin: domain.Imported, Fingerprint: []byte{14}, PublicKey: []byte{15}, BlobDigest: []byte{16},
			ImportJob: "job",
		},
		"key_archived":                      domain.KeyArchived{},
		"key_unarchived":                    domain.KeyUnarchived{},
		"key_expired":                       domain.KeyExpired{},
		"key_expiry_changed":                domain.KeyExpiryChanged{ExpireTime: at.Add(time.Hour)},
		"key_expiry_changed_to_never":       domain.KeyExpiryChanged{},
		"key_manager_changed":               domain.KeyManagerChanged{ManagedBy: "manager"},
		"key_import_awaited":                domain.KeyImportAwaited{},
		"auto_rotation_enabled":             domain.AutoRotationEnabled{RotationPeriod: 48 * time.Hour, NextRotationTime: at.Add(time.Hour)},
		"auto_rotation_disabled":            domain.AutoRotationDisabled{},
		"rotation_period_changed":           domain.RotationPeriodChanged{RotationPeriod: 48 * time.Hour, NextRotationTime: at.Add(time.Hour)},
		"rotation_scheduled":                domain.RotationScheduled{NextRotationTime: at.Add(time.Hour)},
		"max_uses_changed":                  domain.MaxUsesChanged{MaxUsesPerVersion: 18},
		"uses_leased":                       domain.UsesLeased{Version: 2, Uses: 18},
		"key_version_destruction_scheduled": domain.KeyVersionDestructionScheduled{Version: 2, DeleteTime: at.Add(time.Hour)},
		"key_version_restored":              domain.KeyVersionRestored{Version: 2},
		"key_version_destroyed":             domain.KeyVersionDestroyed{Version: 2},
		"key_version_imported": domain.KeyVersionImported{
			Version: 2, MaterialID: uid(13), Origin: domain.ImportedClear, ImportJob: "job", BlobDigest: []byte{16},
		},
		"key_material_deleted":    domain.KeyMaterialDeleted{Version: 2},
		"usage_bound":             domain.UsageBound{Resource: "resource", Creator: "admin"},
		"usage_unbound":           domain.UsageUnbound{Resource: "resource"},
		"material_erasure_failed": domain.MaterialErasureFailed{Version: 2, MaterialID: uid(13), Cause: "cause"},
	} {
		c := base
		c.Events = []domain.Event{e}
		out[name] = c
	}
	ring := base
	ring.Aggregate, ring.KeyUID, ring.Version, ring.Protection, ring.LedgerTag = RingAggregate(name.RingName()), domain.UID{}, 0, "", [32]byte{}
	for event, e := range map[string]domain.RingEvent{
		"key_ring_created":    domain.KeyRingCreated{Name: name.RingName(), Labels: labels, Creator: "admin"},
		"key_ring_archived":   domain.KeyRingArchived{},
		"key_ring_unarchived": domain.KeyRingUnarchived{},
	} {
		c := ring
		c.Ring = []domain.RingEvent{e}
		out[event] = c
	}
	alias := base
	aliasName := domain.AliasName{Project: "default", Location: "local", ID: "a"}
	alias.Aggregate, alias.Version = AliasAggregate(aliasName), 0
	for event, e := range map[string]domain.AliasEvent{
		"key_alias_set":     domain.KeyAliasSet{Name: aliasName, KeyUID: uid(1), Key: name},
		"key_alias_removed": domain.KeyAliasRemoved{},
	} {
		c := alias
		c.Alias = []domain.AliasEvent{e}
		out[event] = c
	}
	jobName := domain.ImportJobName{Project: "default", Location: "local", Ring: "r", ID: "j"}
	job := base
	job.Aggregate, job.Version, job.LedgerTag = ImportJobAggregate(jobName), 0, [32]byte{}
	for event, e := range map[string]domain.ImportJobEvent{
		"import_job_created": domain.ImportJobCreated{
			Name: jobName, UID: uid(6), Method: domain.RSAOAEP3072SHA256AES256, Protection: domain.HSM, MaterialID: uid(7),
			PublicKey: []byte{1}, BlobDigest: []byte{2}, Creator: "admin", ExpireTime: base.Time.Add(domain.ImportJobLifetime),
		},
		"import_job_used":       domain.ImportJobUsed{Digest: [32]byte{3}, KeyUID: uid(1), Version: 2},
		"import_completed":      domain.ImportCompleted{Digest: [32]byte{3}},
		"import_job_expired":    domain.ImportJobExpired{},
		"import_job_canceled":   domain.ImportJobCanceled{},
		"import_job_key_erased": domain.ImportJobKeyErased{},
	} {
		c := job
		c.ImportJob = []domain.ImportJobEvent{e}
		out[event] = c
	}
	site := base
	site.Aggregate, site.KeyUID, site.Version, site.LedgerTag = SiteAggregate, domain.UID{}, 0, [32]byte{}
	for name, e := range map[string]SiteEvent{
		"site_created":       SiteCreated{Lineage: uid(7)},
		"root_created":       RootCreated{Root: Root{ID: "root-1", Sentinel: []byte{17}, TokenSerial: "serial"}},
		"shred_started":      ShredStarted{ID: uid(18), NoBackupOK: true},
		"root_planned":       RootPlanned{ID: "root-2", Node: uid(19)},
		"root_adopted":       RootAdopted{ID: "root-2", Nodes: []domain.UID{uid(19), uid(20)}},
		"material_rewrapped": MaterialRewrapped{Living: 21, Orphans: 22},
		"root_retired":       RootRetired{ID: "root-1"},
		"root_destroyed":     RootDestroyed{ID: "root-1"},
		"shred_completed":    ShredCompleted{ID: uid(18)},
	} {
		c := site
		c.Site = []SiteEvent{e}
		out[name] = c
	}
	return out
}

func asStored(t *testing.T, c Commit, data []byte) storedMessage {
	t.Helper()
	return storedMessage{
		subject: c.Aggregate.subject(), seq: uint64(c.Revision), data: data,
		header: nats.Header{headerType: []string{typeHeader(typeCommit, c.Lineage)}},
	}
}

var codecOptions = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreFields(Commit{}, "Hash", "StoredTime")}

// TestEveryEventHasASample: each stored event has one by its own name, all samples are read as they were written, and each
// field of each event is set in one of them.
func TestEveryEventHasASample(t *testing.T) {
	all := samples()
	unset := map[protoreflect.FullName]bool{}
	members := (&eventsv1.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("event").Fields()
	for i := range members.Len() {
		if name := string(members.Get(i).Name()); all[name].Aggregate.Name == "" {
			t.Errorf("stored event %s has no sample: it would be written, but maybe never read", name)
		}
		fields := members.Get(i).Message().Fields()
		for j := range fields.Len() {
			unset[fields.Get(j).FullName()] = true
		}
	}
	for name, c := range all {
		data, err := encodeCommit(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var p eventsv1.Commit
		if err := proto.Unmarshal(data, &p); err != nil {
			t.Fatal(err)
		}
		for _, e := range p.GetEvents() {
			event := e.ProtoReflect()
			member := event.WhichOneof(event.Descriptor().Oneofs().ByName("event"))
			if wanted := members.ByName(protoreflect.Name(name)); wanted != nil && wanted != member || !strings.HasPrefix(name, string(member.Name())) {
				t.Errorf("the sample %s is stored as %s", name, member.Name())
			}
			event.Get(member).Message().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
				delete(unset, f.FullName())
				return true
			})
		}
		got, err := decodeCommit(asStored(t, c, data))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c, got, codecOptions); diff != "" {
			t.Errorf("%s (-written +read):\n%s", name, diff)
		}
	}
	for field := range unset {
		t.Errorf("field %s is not written, or set in no sample", field)
	}
}

// TestEveryDomainEventIsStored finds the domain's events in its source, so that a new one can't be forgotten here.
func TestEveryDomainEventIsStored(t *testing.T) {
	stored := map[string]bool{}
	for _, c := range samples() {
		for _, e := range c.Events {
			stored[reflect.TypeOf(e).Name()] = true
		}
		for _, e := range c.Ring {
			stored[reflect.TypeOf(e).Name()] = true
		}
		for _, e := range c.Alias {
			stored[reflect.TypeOf(e).Name()] = true
		}
		for _, e := range c.ImportJob {
			stored[reflect.TypeOf(e).Name()] = true
		}
	}
	for method, file := range map[string]string{"isEvent": "../domain/events.go", "isRingEvent": "../domain/ring.go", "isAliasEvent": "../domain/alias.go", "isImportJobEvent": "../domain/importjob.go"} {
		for _, name := range receiversOf(t, file, method) {
			if !stored[name] {
				t.Errorf("domain.%s has no sample, and maybe no stored form", name)
			}
		}
	}
}

func receiversOf(t *testing.T, file, method string) (names []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv != nil && fn.Name.Name == method {
			names = append(names, fn.Recv.List[0].Type.(*ast.Ident).Name)
		}
	}
	if len(names) == 0 {
		t.Fatalf("no type with %s in %s", method, file)
	}
	return names
}

// TestClosedLists finds the words of the domain's closed lists in its source: one without a stored form would make every
// record that has it impossible.
func TestClosedLists(t *testing.T) {
	for typeName, known := range map[string]func(string) error{
		"Category":        func(s string) error { _, err := categories.toProto(domain.Category(s)); return err },
		"Outcome":         func(s string) error { _, err := outcomes.toProto(domain.Outcome(s)); return err },
		"RequestType":     func(s string) error { _, err := requestTypes.toProto(domain.RequestType(s)); return err },
		"ProtectionLevel": func(s string) error { _, err := protectionLevels.toProto(domain.ProtectionLevel(s)); return err },
	} {
		words := constantsOf(t, typeName)
		if len(words) == 0 {
			t.Errorf("domain.%s has no constants", typeName)
		}
		for _, word := range words {
			if err := known(word); err != nil {
				t.Errorf("domain.%s: %v", typeName, err)
			}
		}
	}
	for _, e := range []protoreflect.EnumDescriptor{
		eventsv1.ActivityRecord_Category(0).Descriptor(), eventsv1.ActivityRecord_Outcome(0).Descriptor(),
		eventsv1.RequestType(0).Descriptor(), eventsv1.ProtectionLevel(0).Descriptor(),
	} {
		for i := range e.Values().Len() {
			var d decoder
			switch n := int32(e.Values().Get(i).Number()); e.Name() {
			case "Category":
				fromProto(&d, categories, eventsv1.ActivityRecord_Category(n))
			case "Outcome":
				fromProto(&d, outcomes, eventsv1.ActivityRecord_Outcome(n))
			case "RequestType":
				fromProto(&d, requestTypes, eventsv1.RequestType(n))
			case "ProtectionLevel":
				fromProto(&d, protectionLevels, eventsv1.ProtectionLevel(n))
			default:
				t.Errorf("enum %s is not checked", e.Name())
			}
			if d.err != nil {
				t.Errorf("%s: %v", e.Values().Get(i).Name(), d.err)
			}
		}
	}
}

func constantsOf(t *testing.T, typeName string) (words []string) {
	t.Helper()
	files, err := filepath.Glob("../domain/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
				if id, ok := v.Type.(*ast.Ident); ok && id.Name == typeName {
					if lit, ok := v.Values[0].(*ast.BasicLit); ok {
						words = append(words, strings.Trim(lit.Value, `"`))
					}
				}
			}
			return true
		})
	}
	return words
}

// TestFixtures reads bytes as they were stored by every version of this program.
func TestFixtures(t *testing.T) {
	const folder = "testdata/events"
	all := samples()
	for name, c := range all {
		path := filepath.Join(folder, name+"_v1.binpb")
		if _, err := os.Stat(path); os.IsNotExist(err) && *addFixtures {
			data, err := encodeCommit(c)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := filepath.Glob(folder + "/*_v1.binpb")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), "_v1.binpb")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, ok := all[name]
		if !ok {
			t.Errorf("fixture %s has no sample to compare with", path)
			continue
		}
		delete(all, name)
		got, err := decodeCommit(asStored(t, want, data))
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if diff := cmp.Diff(want, got, codecOptions); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	for name := range all {
		t.Errorf("no fixture of %s; add it with go test -run TestFixtures -add-fixtures", name)
	}
}

func TestDecodeRefuses(t *testing.T) {
	c := samples()["key_enabled"]
	data, err := encodeCommit(c)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := proto.Marshal(&eventsv1.Commit{Metadata: &eventsv1.Metadata{Aggregate: c.Aggregate.Name}, Events: []*eventsv1.Event{{}}})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := proto.Marshal(&eventsv1.Commit{
		Metadata: &eventsv1.Metadata{Aggregate: c.Aggregate.Name},
		Events:   []*eventsv1.Event{{Event: &eventsv1.Event_KeyRingArchived{KeyRingArchived: &eventsv1.KeyRingArchived{}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*storedMessage){
		"a ring's event":    func(m *storedMessage) { m.data = foreign },
		"another type":      func(m *storedMessage) { m.header.Set(headerType, typeHeader("commit2", c.Lineage)) },
		"no type":           func(m *storedMessage) { m.header.Del(headerType) },
		"bad lineage":       func(m *storedMessage) { m.header.Set(headerType, typeCommit+" abc") },
		"another subject":   func(m *storedMessage) { m.subject = SiteAggregate.subject() },
		"cut off":           func(m *storedMessage) { m.data = m.data[:len(m.data)-1] },
		"an unknown event":  func(m *storedMessage) { m.data = newer },
		"a bad identifier":  func(m *storedMessage) { m.data = append(m.data, 0x0a, 3, 0x0a, 1, 1) },
		"nothing":           func(m *storedMessage) { m.data = nil },
		"something foreign": func(m *storedMessage) { m.data = bytes.Repeat([]byte{0xff}, 10) },
	} {
		m := asStored(t, c, bytes.Clone(data))
		change(&m)
		if got, err := decodeCommit(m); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
}

// TestKinds: what an aggregate is stands in its name, and its commits hold no events of another kind.
func TestKinds(t *testing.T) {
	for a, want := range map[Aggregate]Kind{
		SiteAggregate: KindSite,
		KeyAggregate(domain.KeyName{Project: "p", Location: "l", Ring: "r", ID: "k"}):                    KindKey,
		KeyAggregate(domain.KeyName{Project: "aliases", Location: "keyRings", Ring: "keys", ID: "keys"}): KindKey,
		RingAggregate(domain.RingName{Project: "p", Location: "l", Ring: "keys"}):                        KindRing,
		AliasAggregate(domain.AliasName{Project: "p", Location: "l", ID: "keyRings"}):                    KindAlias,
		{Project: "p", Name: "projects/p/locations/l/keyRings/r/importJobs/j"}:                           KindImportJob,
		ImportJobAggregate(domain.ImportJobName{Project: "p", Location: "l", Ring: "keys", ID: "j"}):     KindImportJob,
		{Project: "p", Name: "projects/p/locations/l/others/o"}:                                          KindUnknown,
		{Name: "elsewhere"}: KindUnknown,
	} {
		if got := a.Kind(); got != want {
			t.Errorf("%s is of kind %d, want %d", a.Name, got, want)
		}
	}
	all := samples()
	for name, c := range all {
		for other, o := range all {
			if c.Aggregate.Kind() == o.Aggregate.Kind() || other == "none" {
				continue
			}
			mixed := o
			mixed.Aggregate = c.Aggregate
			if _, err := encodeCommit(mixed); err == nil {
				t.Errorf("%s is stored in the aggregate of %s", other, name)
			}
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	full := domain.ActivityRecord{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 678_901_000, time.UTC), Project: "p", Location: "l", KeyUID: uid(1),
		KeyName: "projects/p/locations/l/keyRings/r/keys/k", Version: 2, Operation: "Decrypt", Category: domain.CategoryCrypto,
		Outcome: domain.OutcomeDenied, Reason: domain.ReasonKeyDisabled, Message: "disabled", Caller: samples()["none"].Caller, GrantedBy: "admin",
		Protection: domain.Software, LedgerTag: [32]byte{3}, BytesIn: 4, BytesOut: 5, Duration: 6 * time.Microsecond,
	}
	odd := full
	odd.KeyName, odd.KeyUID, odd.LedgerTag, odd.Version = "projects/other/locations/l/x", domain.UID{}, [32]byte{}, 0
	odd.Caller = domain.System(uid(9))
	ipv4 := full
	ipv4.Caller.Address = netip.MustParseAddr("192.0.2.1")
	want := []domain.ActivityRecord{full, odd, ipv4, {Time: time.UnixMicro(0).UTC()}}
	var data []byte
	for i := range want {
		var err error
		if data, err = appendRecord(data, &want[i]); err != nil {
			t.Fatal(err)
		}
	}
	r, err := decodeBatchMessage(storedMessage{data: data, header: nats.Header{headerType: []string{typeHeader(typeActivity, uid(7))}}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, r.Records, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}

// TestRecordOfBadText: what a caller sends must not be able to make its own record impossible.
func TestRecordOfBadText(t *testing.T) {
	bad := "\xff" + strings.Repeat("ä", 5000) + "\xc3"
	r := domain.ActivityRecord{Project: "p", KeyName: bad, Operation: "Encrypt", Message: bad, Caller: domain.Caller{UserAgent: bad, ClientRequestID: bad, CorrelationID: bad}}
	data, err := appendRecord(nil, &r)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > 1200 {
		t.Errorf("the record has %d bytes", len(data))
	}
}

func TestSplitName(t *testing.T) {
	for name, want := range map[string][3]string{
		"projects/p/locations/l/keyRings/r": {"p", "l", "keyRings/r"},
		"projects/p/locations/l/":           {"p", "l", ""},
		"projects/p/locations/l":            {"", "", "projects/p/locations/l"},
		"projects/a/b/locations/l/x":        {"", "", "projects/a/b/locations/l/x"},
		"site":                              {"", "", "site"},
		"":                                  {},
	} {
		p, l, rest := splitName(name)
		if got := [3]string{p, l, rest}; got != want {
			t.Errorf("splitName(%q) = %q, want %q", name, got, want)
		}
	}
}
