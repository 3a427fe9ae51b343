package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"connectrpc.com/otelconnect"
	"connectrpc.com/validate"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/proto/gen/kms/v1/kmsv1connect"
)

// DefaultTimeout is the longest that a request may take when Config.Timeout is zero.
const DefaultTimeout = 30 * time.Second

// Config is what a Server works with. The optional fields say so; all others are required.
type Config struct {
	Commands      Commands
	Keys          Keys
	Roots         Roots
	Activity      Activity
	Authenticator Authenticator
	// ServerInfo describes this node to those who may ask.
	ServerInfo func(context.Context) (ServerInfo, error)

	// Location is the one that this server serves; names of others are refused.
	Location string
	// Lineage is the site's; page tokens of another one are refused.
	Lineage domain.UID
	// PageTokenKey authenticates page tokens, at least 32 bytes. Nodes that share it take each other's tokens.
	PageTokenKey []byte

	// AllowClearImport lets callers send key material in the clear.
	AllowClearImport bool

	// Checks decide about readiness.
	Checks []Check
	// Metrics serves /metrics. Optional.
	Metrics http.Handler
	Log     *slog.Logger
	// TracerProvider makes a span of each request. Optional: without it nothing is traced, at no cost.
	TracerProvider trace.TracerProvider
	// MeterProvider counts requests. Optional.
	MeterProvider metric.MeterProvider
	// Timeout bounds every request; a caller may ask for less. Optional: DefaultTimeout.
	Timeout time.Duration
	// StreamPatience is how long the caller of a stream may take to read one message. Optional: DefaultStreamPatience.
	StreamPatience time.Duration
}

func (c *Config) validate() error {
	switch {
	case c.Commands == nil, c.Keys == nil, c.Roots == nil, c.Activity == nil, c.Authenticator == nil, c.ServerInfo == nil, c.Log == nil:
		return errors.New("rpc: Commands, Keys, Roots, Activity, Authenticator, ServerInfo and Log are required")
	case c.Location == "":
		return errors.New("rpc: a location is required")
	case len(c.PageTokenKey) < 32:
		return errors.New("rpc: the key for page tokens must have at least 32 bytes")
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.StreamPatience == 0 {
		c.StreamPatience = DefaultStreamPatience
	}
	if c.MeterProvider == nil {
		c.MeterProvider = noop.NewMeterProvider()
	}
	return nil
}

// Server is the one handler of the listener. Run must be running while it serves.
type Server struct {
	cfg         Config
	methods     map[string]*method
	rpcs        map[string]http.Handler // by procedure: this package's own routing, so that a use passes no other
	mux         *http.ServeMux          // everything else
	routes      []route
	errors      *connect.ErrorWriter
	instruments *instruments
	validator   protovalidate.Validator
	pages       pageTokens
	attempts    *attempts
	// streams ends with endStreams, and with it the streams that would last longer.
	streams    context.Context
	endStreams context.CancelFunc
}

// New builds the handler. It fails if the API's descriptors or the configuration are incomplete.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, rpcs: make(map[string]http.Handler), mux: http.NewServeMux(), pages: pageTokens{key: cfg.PageTokenKey, lineage: cfg.Lineage}}
	s.streams, s.endStreams = context.WithCancel(context.Background())
	var err error
	if s.methods, err = methodsByProcedure(); err != nil {
		return nil, err
	}
	if s.validator, err = requestValidator(); err != nil {
		return nil, err
	}
	if s.instruments, err = newInstruments(cfg.MeterProvider.Meter("github.com/keyledger/kms/rpc")); err != nil {
		return nil, err
	}
	for _, m := range s.methods {
		m.metrics = newMethodMetrics(m.name)
	}
	if s.routes, err = restRoutes(s.methods); err != nil {
		return nil, err
	}
	s.attempts = newAttempts(cfg, s.instruments.unrecorded)
	options, err := s.handlerOptions()
	if err != nil {
		return nil, err
	}
	s.errors = connect.NewErrorWriter()
	services := s.mountServices(options)
	rest, err := transcoder(services)
	if err != nil {
		return nil, err
	}
	s.mux.Handle("/api/v1/", s.restEdge(rest))
	s.mountOperations()
	s.mux.HandleFunc("/", s.unknownPath)
	return s, nil
}

// Run writes the records of unauthenticated attempts until ctx ends, and then the last ones.
func (s *Server) Run(ctx context.Context) error { return s.attempts.run(ctx) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if m, ok := s.methods[r.URL.Path]; ok {
		s.serveRPC(w, r, m)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// handlerOptions is what every handler of the API has in common. Interceptors are listed from the outside in.
func (s *Server) handlerOptions() ([]connect.HandlerOption, error) {
	var interceptors []connect.Interceptor
	if s.cfg.TracerProvider != nil {
		traces, err := otelconnect.NewInterceptor(otelconnect.WithTracerProvider(s.cfg.TracerProvider), otelconnect.WithoutMetrics(), otelconnect.WithTrustRemote())
		if err != nil {
			return nil, fmt.Errorf("making the tracing interceptor: %w", err)
		}
		interceptors = append(interceptors, traces)
	}
	interceptors = append(interceptors, &interceptor{s}, validate.NewInterceptor(validate.WithValidator(s.validator), validate.WithoutErrorDetails()))
	return []connect.HandlerOption{
		connect.WithCodec(strictJSON{"json"}), connect.WithCodec(strictJSON{"json; charset=utf-8"}),
		connect.WithInterceptors(interceptors...),
		connect.WithConditionalHandlerOptions(s.limits),
	}, nil
}

// requestValidator compiles the rules of all requests at once, so that a mistake in one is found at start and no request
// pays for compiling. The rules are fixed in the proto files: one validator does for every Server of the process.
var requestValidator = sync.OnceValues(func() (protovalidate.Validator, error) {
	var messages []proto.Message
	for _, service := range services() {
		for i := range service.Methods().Len() {
			t, err := protoregistry.GlobalTypes.FindMessageByName(service.Methods().Get(i).Input().FullName())
			if err != nil {
				return nil, fmt.Errorf("looking up the request of %s: %w", service.Methods().Get(i).FullName(), err)
			}
			messages = append(messages, t.New().Interface())
		}
	}
	validator, err := protovalidate.New(protovalidate.WithMessages(messages...))
	if err != nil {
		return nil, fmt.Errorf("compiling the rules of requests: %w", err)
	}
	return validator, nil
})

// service is one mounted service.
type service struct {
	path    string
	handler http.Handler
}

func (s *Server) mountServices(options []connect.HandlerOption) []service {
	// Lists compress well. What holds a plaintext is never compressed: the size of the answer would tell about it.
	compress := append(slices.Clip(options), connect.WithCompressMinBytes(1<<10))
	never := append(slices.Clip(options), connect.WithCompressMinBytes(math.MaxInt32))
	var out []service
	add := func(path string, h http.Handler) {
		out = append(out, service{path, h})
		for procedure := range s.methods {
			if strings.HasPrefix(procedure, path) {
				s.rpcs[procedure] = h
			}
		}
	}
	add(kmsv1connect.NewKeyServiceHandler(&keyService{s: s}, compress...))
	add(kmsv1connect.NewCryptoServiceHandler(&cryptoService{s: s}, never...))
	add(kmsv1connect.NewActivityServiceHandler(&activityService{s: s}, compress...))
	add(kmsv1connect.NewSystemServiceHandler(&systemService{s: s}, compress...))
	return out
}

// mountOperations adds what operators and tools need. It needs no credential and shows nothing of any key.
func (s *Server) mountOperations() {
	// Strangers may ask these: their messages are small, and nothing is decompressed for them.
	limit := connect.WithHandlerOptions(connect.WithReadMaxBytes(maxOperationsMessage), connect.WithCompression("gzip", nil, nil))
	s.mux.Handle(grpchealth.NewHandler(s, limit))
	reflector := grpcreflect.NewStaticReflector(serviceNames()...)
	s.mux.Handle(grpcreflect.NewHandlerV1(reflector, limit))
	s.mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, limit))
	s.mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	s.mux.HandleFunc("GET /readyz", s.readyz)
	if s.cfg.Metrics != nil {
		s.mux.Handle("GET /metrics", s.cfg.Metrics)
	}
}

func serviceNames() []string {
	var names []string
	for _, d := range services() {
		names = append(names, string(d.FullName()))
	}
	return names
}

// unknownPath answers what is mounted nowhere, in the format of the protocol that was meant.
func (s *Server) unknownPath(w http.ResponseWriter, r *http.Request) {
	if name := strings.TrimPrefix(r.URL.Path, "/"); s.errors.IsSupported(r) && strings.Contains(name, ".") && protoreflect.FullName(strings.ReplaceAll(name, "/", ".")).IsValid() {
		s.writeError(w, r, connectError(&domain.Error{Reason: reasonUnimplemented, Message: "this server has no method " + r.URL.Path}, ""))
		return
	}
	replyREST(w, http.StatusNotFound, connectError(&domain.Error{Reason: reasonNotFound, Message: "there is nothing at this path; the API is at /api/v1/ and /kms.v1.<Service>/<Method>"}, ""))
}

// NewHTTPServer returns a server for the handler with every limit set: HTTP/1.1 and HTTP/2, the latter over TLS or, when
// there is no TLS configuration, with prior knowledge (h2c). What the server itself has to say goes to the log.
func NewHTTPServer(addr string, handler http.Handler, tlsConfig *tls.Config, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(tlsConfig != nil)
	protocols.SetUnencryptedHTTP2(tlsConfig == nil)
	return &http.Server{
		Addr: addr, Handler: handler, TLSConfig: tlsConfig, Protocols: protocols,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute, // bodies are small
		WriteTimeout:      2 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          500,
			MaxReceiveBufferPerStream:     512 << 10,
			MaxReceiveBufferPerConnection: 4 << 20,
			SendPingTimeout:               30 * time.Second,
			PingTimeout:                   15 * time.Second,
			WriteByteTimeout:              30 * time.Second,
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
