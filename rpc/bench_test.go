package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"testing"

	"go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/protobuf/proto"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
	"github.com/keyledger/kms/proto/gen/kms/v1/kmsv1connect"
	"github.com/keyledger/kms/rpc"
)

// fast answers at once, so that what is measured is the edge.
type fast struct{ *site }

func (fast) Encrypt(_ context.Context, _ domain.Caller, r commands.EncryptRequest) (commands.EncryptResult, error) {
	return commands.EncryptResult{Ciphertext: r.Plaintext, Name: r.Ref.Name, Version: 1}, nil
}

// BenchmarkEdge is what the edge costs per Encrypt, without the HTTP server and the network.
func BenchmarkEdge(b *testing.B) {
	s := newServer(b, func(c *rpc.Config) {
		c.Commands = fast{c.Commands.(*site)}
		c.MeterProvider = metric.NewMeterProvider(metric.WithReader(metric.NewManualReader()))
	})
	message, err := proto.Marshal(&kmsv1.EncryptRequest{Name: keyPath, Plaintext: make([]byte, 32)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", "/kms.v1.CryptoService/Encrypt", bytes.NewReader(message))
		r.Header.Set("Content-Type", "application/proto")
		r.Header.Set("Authorization", "Bearer "+adminKey)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code != 200 {
			b.Fatal(w.Code, w.Body.String())
		}
	}
}

// BenchmarkLoopback is what a caller sees of the edge: client and server share the machine.
func BenchmarkLoopback(b *testing.B) {
	s := newServer(b, func(c *rpc.Config) { c.Commands = fast{c.Commands.(*site)} })
	listener, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := rpc.NewHTTPServer("", s.handler, nil, s.logger())
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	b.Cleanup(func() {
		if err := server.Close(); err != nil {
			b.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			b.Error(err)
		}
	})
	for _, callers := range []int{1, 16, 64} {
		b.Run(strconv.Itoa(callers), func(b *testing.B) {
			transport := &http.Transport{MaxIdleConnsPerHost: callers}
			defer transport.CloseIdleConnections()
			client := kmsv1connect.NewCryptoServiceClient(&http.Client{Transport: bearer{adminKey, transport}}, "http://"+listener.Addr().String())
			req := &kmsv1.EncryptRequest{Name: keyPath, Plaintext: make([]byte, 32)}
			b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := client.Encrypt(b.Context(), req); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}
