package rpc_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/kms/domain"
)

// stranger makes a request without a credential from an address, past the network.
func (s *served) stranger(t *testing.T, address string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/kms.v1.CryptoService/Encrypt", strings.NewReader("{}"))
	r.RemoteAddr = address
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != http.StatusUnauthorized {
		t.Errorf("answer = %d", w.Code)
	}
}

// TestStrangersAreSummarised: one record per second, reason and network, whatever they do.
func TestStrangersAreSummarised(t *testing.T) {
	s := serve(t) // outside the bubble: its listener is a real one
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := s.handler.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for i := range 5 {
			s.stranger(t, fmt.Sprintf("192.0.2.%d:1234", i))
			s.stranger(t, fmt.Sprintf("[2001:db8:0:1::%d]:1234", i))
		}
		s.stranger(t, "198.51.100.1:1")
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		got := make(map[string]domain.ActivityRecord)
		for _, r := range s.attempts {
			got[r.Message] = r
		}
		if len(s.attempts) != 3 {
			t.Fatalf("recorded %+v, want three summaries", s.attempts)
		}
		r, ok := got["5 attempts from 192.0.2.0/24 within a second"]
		if !ok || r.Outcome != domain.OutcomeDenied || r.Reason != domain.ReasonMissingCredential || r.Category != domain.CategoryAccess ||
			r.Caller.Address.String() != "192.0.2.0" || r.Location != "local" || r.Caller.RequestID.IsZero() {
			t.Errorf("recorded %+v", s.attempts)
		}
		if _, ok := got["5 attempts from 2001:db8:0:1::/64 within a second"]; !ok {
			t.Errorf("recorded %+v", s.attempts)
		}

		// Strangers from everywhere: their summaries stay few.
		for i := range 5000 {
			s.stranger(t, fmt.Sprintf("10.%d.%d.1:1", i/250, i%250))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(s.attempts) - 3; n > 300 {
			t.Errorf("%d summaries in a second", n)
		}

		// What can't be recorded waits, within bounds, and the last of it is written at the end.
		s.mu.Lock()
		s.unable, s.attempts = true, nil
		s.mu.Unlock()
		s.stranger(t, "192.0.2.1:1")
		time.Sleep(3 * time.Second)
		s.mu.Lock()
		s.unable = false
		s.mu.Unlock()
		s.stranger(t, "192.0.2.1:1")
		cancel()
		running.Wait()
		if len(s.attempts) != 2 {
			t.Errorf("recorded %+v, want both summaries", s.attempts)
		}
	})
}
