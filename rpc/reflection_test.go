package rpc_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/keyledger/kms/rpc"
)

func (s *served) grpc(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(s.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("closing the connection: %v", err)
		}
	})
	return conn
}

// TestGRPCByReflection calls the service as a tool does that knows nothing of it: Google's client, the schema by
// reflection, dynamic messages.
func TestGRPCByReflection(t *testing.T) {
	s := serve(t)
	conn := s.grpc(t)
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *grpc_reflection_v1.ServerReflectionRequest) *grpc_reflection_v1.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		res, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	var names []string
	for _, svc := range ask(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}).GetListServicesResponse().GetService() {
		names = append(names, svc.GetName())
	}
	slices.Sort(names)
	if want := []string{"kms.v1.ActivityService", "kms.v1.CryptoService", "kms.v1.KeyService", "kms.v1.SystemService"}; !slices.Equal(names, want) {
		t.Errorf("services = %v, want %v", names, want)
	}
	files := ask(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "kms.v1.CryptoService"},
	}).GetFileDescriptorResponse().GetFileDescriptorProto()
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	method := findMethod(t, files, "kms.v1.CryptoService", "Encrypt")

	call := func(plaintext []byte) (*dynamicpb.Message, error) {
		req := dynamicpb.NewMessage(method.Input())
		req.Set(method.Input().Fields().ByName("name"), protoreflect.ValueOfString(keyPath))
		req.Set(method.Input().Fields().ByName("plaintext"), protoreflect.ValueOfBytes(plaintext))
		res := dynamicpb.NewMessage(method.Output())
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+adminKey)
		return res, conn.Invoke(ctx, "/kms.v1.CryptoService/Encrypt", req, res)
	}
	res, err := call([]byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Get(method.Output().Fields().ByName("ciphertext")).Bytes(); string(got) != "enc:a" {
		t.Errorf("ciphertext = %q", got)
	}
	if _, err := call(make([]byte, 65537)); status.Code(err) != codes.InvalidArgument || len(status.Convert(err).Details()) == 0 {
		t.Errorf("too long a plaintext: %v", err)
	}
	if _, err := call(make([]byte, 300<<10)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("too long a message: %v", err) // what every gRPC server says to that
	}
}

func findMethod(t *testing.T, files [][]byte, service, method protoreflect.FullName) protoreflect.MethodDescriptor {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
	for _, b := range files {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(b, file); err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, file)
	}
	registry, err := protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	d, err := registry.FindDescriptorByName(service)
	if errors.Is(err, protoregistry.NotFound) || err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method))
}

func TestGRPCHealth(t *testing.T) {
	bad := make(chan error, 1)
	s := serve(t, func(c *rpc.Config) {
		c.Checks = []rpc.Check{{Name: "token", Run: func(context.Context) error {
			select {
			case err := <-bad:
				return err
			default:
				return nil
			}
		}}}
	})
	health := grpc_health_v1.NewHealthClient(s.grpc(t))
	for _, service := range []string{"", "kms.v1.KeyService"} {
		res, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || res.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v %v", service, res, err)
		}
	}
	bad <- errors.New("gone")
	if res, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil || res.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("with a bad check: %v %v", res, err)
	}
	if _, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "x"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown service: %v", err)
	}
}
