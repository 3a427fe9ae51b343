package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
)

// checkTimeout bounds each readiness check.
const checkTimeout = 2 * time.Second

// Check is one thing that must be good for this node to serve. Its error is shown to whoever asks for readiness, without
// a credential: it must hold nothing that is not for everyone.
type Check struct {
	Name string
	Run  func(context.Context) error
}

// runChecks runs all checks at once; the errors are in the order of the checks, nil where one is good.
func (s *Server) runChecks(ctx context.Context) []error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	results := make([]error, len(s.cfg.Checks))
	var wg sync.WaitGroup
	for i, check := range s.cfg.Checks {
		wg.Go(func() { results[i] = check.Run(ctx) })
	}
	wg.Wait()
	return results
}

// readyz answers 200 only when every check is good. With ?verbose, or when one is not, it says which.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	var text strings.Builder
	status := http.StatusOK
	for i, err := range s.runChecks(r.Context()) {
		if name := s.cfg.Checks[i].Name; err != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&text, "[-] %s: %v\n", name, err)
			s.cfg.Log.LogAttrs(r.Context(), slog.LevelWarn, "not ready", slog.String("check", name), slog.Any("error", err))
		} else {
			fmt.Fprintf(&text, "[+] %s\n", name)
		}
	}
	if status != http.StatusOK {
		text.WriteString("not ready\n")
	} else if !r.URL.Query().Has("verbose") {
		text.Reset()
		text.WriteString("ok\n")
	} else {
		text.WriteString("ready\n")
	}
	writeText(w, status, text.String())
}

// Check implements grpchealth.Checker: every service is as good as the node.
func (s *Server) Check(ctx context.Context, r *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if r.Service != "" && !slices.Contains(serviceNames(), r.Service) {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("this server has no service %s", r.Service))
	}
	for _, err := range s.runChecks(ctx) {
		if err != nil {
			return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil //nolint:nilerr // the error is the answer: not serving
		}
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client is gone if this fails; there is nobody left to tell
}
