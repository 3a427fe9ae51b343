package activity_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/projections/activity"
)

var comparable = cmp.Options{cmpopts.EquateComparable(netip.Addr{})}

// logs answers a query about the test's key, or a project, of the last day.
func logs(t *testing.T, l *activity.Log, q activity.Query) activity.Page {
	t.Helper()
	page, err := l.Logs(t.Context(), q.Resolve(time.Now().Add(time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func TestRecordsAndCommitsComeBackAsTheyWere(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	full := record(t)
	bare := domain.ActivityRecord{
		Time: full.Time.Add(time.Microsecond), Project: "default", KeyName: "no such key", Operation: "Decrypt",
		Category: domain.CategoryCrypto, Outcome: domain.OutcomeDenied, Reason: domain.ReasonPermissionDenied, Message: "you may not",
		Caller: domain.Caller{Principal: "system", Kind: domain.KindSystem, Request: domain.RequestSystem},
	}
	six := record(t)
	six.Time, six.Caller.Address = full.Time.Add(2*time.Microsecond), netip.MustParseAddr("2001:db8::1")
	s.record(t, 3, full, bare, six)
	created := s.createKey(t, "committed")
	unchanged := s.append(t, created.Revision, eventstore.Commit{
		Aggregate: created.Aggregate, KeyUID: created.KeyUID, CommandID: newUID(t), Operation: "EnableKey", Caller: full.Caller, GrantedBy: "admin",
		Time: created.Time, Prev: created.Hash, Protection: domain.HSM, LedgerTag: created.LedgerTag,
	})
	caughtUp(t, l)

	page := logs(t, l, activity.Query{Project: "default", Total: true})
	byOperation := map[string][]domain.ActivityRecord{}
	for _, r := range page.Rows {
		byOperation[r.Operation] = append(byOperation[r.Operation], r.ActivityRecord)
	}
	want := map[string][]domain.ActivityRecord{
		"Encrypt": {six, full}, "Decrypt": {bare}, "CreateKey": {created.ActivityRecord()}, "EnableKey": {unchanged.ActivityRecord()},
	}
	if diff := cmp.Diff(want, byOperation, comparable); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if page.Total != 5 || page.Next != nil {
		t.Errorf("total %d, next %v", page.Total, page.Next)
	}
	if got := logs(t, l, activity.Query{KeyUID: created.KeyUID}); len(got.Rows) != 2 {
		t.Errorf("%d rows of the committed key, want 2", len(got.Rows))
	}
}

// createKey stores a key's first commit.
func (s *site) createKey(t *testing.T, id string) eventstore.Commit {
	t.Helper()
	name := domain.KeyName{Project: "default", Location: "local", Ring: "default", ID: id}
	uid, now := newUID(t), time.Now().UTC().Truncate(time.Microsecond)
	events, err := domain.Decide(domain.Key{}, now, domain.CreateKey{
		UID: uid, Name: name, Purpose: domain.EncryptDecrypt,
		Algorithm: domain.AES256GCM, Protection: domain.HSM, Creator: "admin", LedgerTag: [32]byte{7}, MaterialID: newUID(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.append(t, 0, eventstore.Commit{
		Aggregate: eventstore.KeyAggregate(name), KeyUID: uid, CommandID: newUID(t), Operation: "CreateKey", Caller: record(t).Caller, GrantedBy: "admin",
		Time: now, Protection: domain.HSM, LedgerTag: [32]byte{7}, Duration: 1234 * time.Microsecond, Events: events,
	})
}

func (s *site) append(t *testing.T, expected eventstore.Revision, c eventstore.Commit) eventstore.Commit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := s.store.Append(ctx, expected, c)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFilters(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	variants := []func(*domain.ActivityRecord){
		func(*domain.ActivityRecord) {},
		func(r *domain.ActivityRecord) { r.Project, r.KeyUID = "other", domain.UID{9} },
		func(r *domain.ActivityRecord) { r.Location = "elsewhere" },
		func(r *domain.ActivityRecord) { r.KeyUID, r.KeyName = domain.UID{}, "unresolved" },
		func(r *domain.ActivityRecord) { r.Operation = "Decrypt" },
		func(r *domain.ActivityRecord) {
			r.Outcome, r.Reason, r.Message = domain.OutcomeFailed, domain.ReasonBadCiphertext, "the Ciphertext is damaged"
		},
		func(r *domain.ActivityRecord) { r.Outcome = domain.OutcomeDenied },
		func(r *domain.ActivityRecord) { r.Caller.Principal = "serviceAccount:default/Ünïcode" },
		func(r *domain.ActivityRecord) { r.Caller.Address = netip.MustParseAddr("192.0.2.77") },
		func(r *domain.ActivityRecord) { r.Caller.Address = netip.MustParseAddr("2001:db8::77") },
		func(r *domain.ActivityRecord) { r.Caller.Address = netip.Addr{} },
		func(r *domain.ActivityRecord) { r.Caller.ClientRequestID = "mine" },
		func(r *domain.ActivityRecord) { r.Caller.CorrelationID = "batch 7" },
		func(r *domain.ActivityRecord) { r.Version = 9 },
		func(r *domain.ActivityRecord) { r.Caller.UserAgent = "curl/8" },
		func(r *domain.ActivityRecord) { r.Time = r.Time.Add(-48 * time.Hour) },
	}
	base := time.Now().UTC().Truncate(time.Microsecond).Add(-time.Hour)
	records := make([]domain.ActivityRecord, len(variants))
	for i, vary := range variants {
		records[i] = record(t)
		records[i].Time = base.Add(time.Duration(i) * time.Second)
		vary(&records[i])
	}
	s.record(t, 4, records...)
	caughtUp(t, l)
	all := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}
	without := func(drop ...int) (rest []int) {
		for _, i := range all {
			if !slices.Contains(drop, i) {
				rest = append(rest, i)
			}
		}
		return rest
	}
	only := netip.MustParsePrefix
	for name, tt := range map[string]struct {
		query activity.Query
		want  []int
	}{
		"the last day":         {activity.Query{}, all},
		"project":              {activity.Query{Project: "other"}, []int{1}},
		"location":             {activity.Query{Location: "elsewhere"}, []int{2}},
		"key":                  {activity.Query{KeyUID: keyUID, Project: "default"}, without(1, 3)},
		"key without project":  {activity.Query{KeyUID: keyUID}, without(1, 3)},
		"key name":             {activity.Query{KeyName: "unresolved"}, []int{3}},
		"operation":            {activity.Query{Operations: []string{"Decrypt", "no'thing"}}, []int{4}},
		"operations":           {activity.Query{Operations: []string{"Decrypt", "Encrypt"}}, all},
		"outcome":              {activity.Query{Outcomes: []domain.Outcome{domain.OutcomeFailed, domain.OutcomeDenied}}, []int{5, 6}},
		"principal":            {activity.Query{Principal: "serviceAccount:default/Ünïcode"}, []int{7}},
		"address":              {activity.Query{ClientAddress: only("192.0.2.77/32")}, []int{8}},
		"IPv4 range":           {activity.Query{ClientAddress: only("192.0.2.64/26")}, []int{8}},
		"every IPv4":           {activity.Query{ClientAddress: only("0.0.0.0/0")}, without(9, 10)},
		"IPv6":                 {activity.Query{ClientAddress: only("2001:db8::77/128")}, []int{9}},
		"IPv6 range":           {activity.Query{ClientAddress: only("2001:db8::/32")}, []int{9}},
		"the client's request": {activity.Query{RequestID: "mine"}, []int{11}},
		"our request":          {activity.Query{RequestID: records[4].Caller.RequestID.String()}, []int{4}},
		"correlation":          {activity.Query{CorrelationID: "batch 7"}, []int{12}},
		"version":              {activity.Query{Version: 9}, []int{13}},
		"keyword in message":   {activity.Query{Keyword: "CIPHERTEXT is"}, []int{5}},
		"keyword in reason":    {activity.Query{Keyword: "bad_cipher"}, []int{5}},
		"keyword in principal": {activity.Query{Keyword: "ünÏcode"}, []int{7}},
		"keyword in agent":     {activity.Query{Keyword: "CURL"}, []int{14}},
		"keyword in operation": {activity.Query{Keyword: "decr"}, []int{4}},
		"percent is no wild":   {activity.Query{Keyword: "%"}, nil},
		"time":                 {activity.Query{Start: base.Add(2 * time.Second), End: base.Add(5 * time.Second)}, []int{2, 3, 4}},
		"long ago":             {activity.Query{Start: base.Add(-72 * time.Hour), End: base.Add(-24 * time.Hour)}, []int{15}},
		"together":             {activity.Query{Project: "default", Operations: []string{"Encrypt"}, Version: 9, Keyword: "admin"}, []int{13}},
		"contradiction":        {activity.Query{Project: "other", Version: 9}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tt.query.Total = true
			page := logs(t, l, tt.query)
			var got []int
			for _, row := range slices.Backward(page.Rows) {
				if row.Position.Stream == "KMS_EVENTS" {
					continue // the site's own first commit
				}
				got = append(got, int(row.Time.Sub(base)/time.Second))
				if row.Time.Before(base) {
					got[len(got)-1] = 15
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
			if page.Total != uint64(len(page.Rows)) {
				t.Errorf("total %d of %d rows", page.Total, len(page.Rows))
			}
		})
	}
}

func TestValuesOfQueriesStayData(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	nasty := []string{"'", `\`, `\'`, `' OR 1=1 --`, "x' UNION ALL SELECT * FROM kms.activity --", "{p:String}", "\t\n\r\x01", "日本語", "`;DROP TABLE kms.activity_g1", `%`, `_`, `\N`, "NULL"}
	for _, text := range nasty {
		r := record(t)
		r.KeyName, r.Operation, r.Caller.Principal, r.Caller.CorrelationID, r.Caller.ClientRequestID, r.Message = text, text, text, text, text, text
		s.record(t, 1, r)
	}
	caughtUp(t, l)
	for _, text := range nasty {
		for field, q := range map[string]activity.Query{
			"name": {KeyName: text}, "operation": {Operations: []string{text, text}}, "principal": {Principal: text},
			"correlation": {CorrelationID: text}, "request": {RequestID: text},
		} {
			page := logs(t, l, q)
			if len(page.Rows) != 1 || page.Rows[0].Message != text {
				t.Errorf("%s %q found %d rows", field, text, len(page.Rows))
			}
		}
		if page := logs(t, l, activity.Query{Keyword: text}); len(page.Rows) == 0 {
			t.Errorf("keyword %q found nothing", text)
		}
		for _, q := range []activity.Query{{Project: text}, {Location: text}, {Outcomes: []domain.Outcome{domain.Outcome(text)}}} {
			if page := logs(t, l, q); len(page.Rows) != 0 {
				t.Errorf("%q as project, location or outcome found %d rows", text, len(page.Rows))
			}
		}
	}
}

func TestPagesStayWhileRecordsArrive(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	at := time.Now().UTC().Truncate(time.Microsecond).Add(-time.Minute)
	var records []domain.ActivityRecord
	for i := range 1000 {
		r := record(t)
		r.Time = at.Add(time.Duration(i/100) * time.Second) // a hundred share each time
		r.Message = fmt.Sprint(i)
		records = append(records, r)
	}
	s.record(t, 7, records...)
	caughtUp(t, l)
	q := activity.Query{KeyUID: keyUID, PageSize: 64, Total: true}.Resolve(time.Now().Add(time.Hour))
	seen := map[string]bool{}
	var last time.Time
	for pages := 0; ; pages++ {
		page, err := l.Logs(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range page.Rows {
			if seen[r.Message] {
				t.Fatalf("record %s came twice", r.Message)
			}
			seen[r.Message] = true
			if !last.IsZero() && r.Time.After(last) {
				t.Fatalf("page %d row %d is newer than what came before", pages, i)
			}
			last = r.Time
		}
		if page.Next == nil {
			break
		}
		if len(page.Rows) != 64 {
			t.Errorf("page %d has %d rows", pages, len(page.Rows))
		}
		q.After = page.Next
		newer := record(t)
		newer.Message = fmt.Sprint("newer ", pages)
		s.record(t, 1, newer)
		if pages%5 == 0 {
			caughtUp(t, l)
		}
	}
	if len(seen) != 1000 {
		t.Errorf("%d records on all pages, want 1000", len(seen))
	}
	skipped := logs(t, l, activity.Query{KeyUID: keyUID, Start: at, End: at.Add(10 * time.Second), Skip: 990, Total: true})
	if len(skipped.Rows) != 10 || skipped.Total != 1000 || skipped.Next != nil {
		t.Errorf("after skipping 990: %d rows, total %d, next %v", len(skipped.Rows), skipped.Total, skipped.Next)
	}
}

func TestLatestUse(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	at := time.Now().UTC().Truncate(time.Microsecond).Add(-time.Minute)
	use := func(seconds int, operation string, version domain.Version, reason domain.Reason, principal string) domain.ActivityRecord {
		r := record(t)
		r.Time, r.Operation, r.Version, r.Reason, r.Outcome, r.Caller.Principal = at.Add(time.Duration(seconds)*time.Second), operation, version, reason, domain.OutcomeOf(reason), principal
		return r
	}
	other := use(60, "Encrypt", 1, "", "other")
	other.KeyUID = newUID(t)
	s.record(t, 2,
		use(3, "Encrypt", 1, "", "first"), use(5, "Encrypt", 1, "", "newest"), use(4, "Encrypt", 1, "", "late"),
		use(7, "Encrypt", 1, domain.ReasonKeyDisabled, "refused"), use(1, "Decrypt", 2, domain.ReasonBadCiphertext, "failed"), other)
	caughtUp(t, l)
	s.record(t, 1, use(2, "Encrypt", 1, "", "older, but recorded later")) // in an insert of its own
	caughtUp(t, l)
	got, err := l.LatestUse(t.Context(), keyUID)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got.Entries {
		for _, u := range []*activity.Use{got.Entries[i].LastSuccess, got.Entries[i].LastRefusal} {
			if u != nil && u.RequestID.IsZero() {
				t.Errorf("no request id in %+v", u)
			} else if u != nil {
				u.RequestID = domain.UID{}
			}
		}
	}
	address := netip.MustParseAddr("192.0.2.1")
	want := []activity.LatestUseEntry{
		{
			Version: 2, Operation: "Decrypt", Category: domain.CategoryCrypto,
			LastRefusal: &activity.Use{Time: at.Add(time.Second), Principal: "failed", Address: address, Outcome: domain.OutcomeFailed, Reason: domain.ReasonBadCiphertext},
		},
		{
			Version: 1, Operation: "Encrypt", Category: domain.CategoryCrypto,
			LastSuccess: &activity.Use{Time: at.Add(5 * time.Second), Principal: "newest", Address: address, Outcome: domain.OutcomeOK},
			LastRefusal: &activity.Use{Time: at.Add(7 * time.Second), Principal: "refused", Address: address, Outcome: domain.OutcomeDenied, Reason: domain.ReasonKeyDisabled},
		},
	}
	if diff := cmp.Diff(want, got.Entries, comparable); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if got.TrackedSince.IsZero() || got.TrackedSince.After(at.Add(time.Second)) {
		t.Errorf("tracked since %v", got.TrackedSince)
	}
	never, err := l.LatestUse(t.Context(), newUID(t))
	if err != nil || len(never.Entries) != 0 {
		t.Errorf("a key that was never used: %+v, %v", never, err)
	}
}

func TestWrongClocksKeepNothingOut(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	var records []domain.ActivityRecord
	for _, at := range []time.Time{{}, time.Date(1950, 1, 1, 0, 0, 0, 5000, time.UTC), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(0, 0)} {
		r := record(t)
		r.Time = at
		records = append(records, r)
	}
	for month := range 300 { // more partitions than one insert may touch by default
		r := record(t)
		r.Time = time.Date(2000, time.Month(1+month), 1, 0, 0, 0, 0, time.UTC)
		records = append(records, r)
	}
	s.record(t, 400, records...)
	caughtUp(t, l)
	exactlyOnce(t, l, len(records))
}

func TestUnavailable(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	stop := run(t, l)
	s.record(t, 1, record(t))
	caughtUp(t, l)
	if err := l.Ready(t.Context()); err != nil {
		t.Errorf("ready: %v", err)
	}
	stop()
	closeEngine(t, s.engine)
	for what, ask := range map[string]func(context.Context) error{
		"Logs": func(ctx context.Context) error {
			_, err := l.Logs(ctx, activity.Query{}.Resolve(time.Now()))
			return err
		},
		"LatestUse": func(ctx context.Context) error { _, err := l.LatestUse(ctx, keyUID); return err },
		"Ready":     l.Ready,
		"Rebuild":   l.Rebuild,
	} {
		began := time.Now()
		if err := ask(t.Context()); !errors.Is(err, activity.ErrUnavailable) {
			t.Errorf("%s: error = %v, want ErrUnavailable", what, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s took %v to find out", what, took)
		}
	}
}

func TestOpenRefusals(t *testing.T) {
	s := newSite(t)
	for _, url := range []string{"", "clickhouse:9000", "tcp://host:9000", "http://host:8123/bad-name", "http://user:secret@host:port", "http://host:8123/" + strings.Repeat("x", 70)} {
		_, err := activity.Open(activity.Config{URL: url, Source: s.store, Owner: "node", Logger: testLog(t)})
		if err == nil {
			t.Errorf("%q was accepted", url)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}
