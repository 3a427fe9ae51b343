package rpc

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// The largest bodies that are read, in bytes. A batch carries up to 500 items.
const (
	maxBody      = 256 << 10
	maxBatchBody = 4 << 20
	// maxOperationsMessage is for health checks and reflection.
	maxOperationsMessage = 4 << 10
)

// method is what is known of one RPC before any request, looked up once per request.
type method struct {
	procedure  string // "/kms.v1.CryptoService/Encrypt"
	name       string // "Encrypt", the operation in the activity log
	permission domain.Permission
	category   domain.Category
	maxBody    int
	metrics    methodMetrics
	descriptor protoreflect.MethodDescriptor
}

// categories says which kind of act the methods of a service are.
var categories = map[protoreflect.Name]domain.Category{
	"KeyService":      domain.CategoryManagement,
	"CryptoService":   domain.CategoryCrypto,
	"ActivityService": domain.CategoryAudit,
	"SystemService":   domain.CategoryManagement,
}

// services are the files of the API; each holds one service.
func services() []protoreflect.ServiceDescriptor {
	var out []protoreflect.ServiceDescriptor
	for _, file := range []protoreflect.FileDescriptor{
		kmsv1.File_kms_v1_key_service_proto, kmsv1.File_kms_v1_crypto_service_proto,
		kmsv1.File_kms_v1_activity_service_proto, kmsv1.File_kms_v1_system_service_proto,
	} {
		for i := range file.Services().Len() {
			out = append(out, file.Services().Get(i))
		}
	}
	return out
}

// methodsByProcedure reads the API's descriptors. A method that names no permission is an error: it could not be guarded.
func methodsByProcedure() (map[string]*method, error) {
	out := make(map[string]*method)
	for _, service := range services() {
		category, ok := categories[service.Name()]
		if !ok {
			return nil, fmt.Errorf("service %s has no category for the activity log", service.FullName())
		}
		for i := range service.Methods().Len() {
			d := service.Methods().Get(i)
			permission, _ := proto.GetExtension(d.Options(), kmsv1.E_Permission).(string)
			if permission == "" {
				return nil, fmt.Errorf("method %s names no permission", d.FullName())
			}
			m := &method{
				procedure: fmt.Sprintf("/%s/%s", service.FullName(), d.Name()), name: string(d.Name()),
				permission: domain.Permission(permission), category: category, maxBody: maxBody, descriptor: d,
			}
			if strings.HasPrefix(m.name, "Batch") {
				m.maxBody = maxBatchBody
			}
			out[m.procedure] = m
		}
	}
	return out, nil
}

// limits gives each handler the size of its largest message, also after decompression.
func (s *Server) limits(spec connect.Spec) []connect.HandlerOption {
	limit := s.methods[spec.Procedure].maxBody
	return []connect.HandlerOption{
		connect.WithReadMaxBytes(limit),
		connect.WithCompression("gzip", nil, nil), // connect's own
		connect.WithCompression("gzip",
			func() connect.Decompressor { return &boundedGzip{limit: limit} },
			func() connect.Compressor { return gzip.NewWriter(io.Discard) }),
	}
}

// boundedGzip decompresses up to its limit and one byte, by which the handler sees that there is more. The handler would
// read on to tell how much: gigabytes, out of a few megabytes.
type boundedGzip struct {
	gzip.Reader

	limit int
	read  int
}

var errInflated = errors.New("the message is larger than its limit")

// Reset implements connect.Decompressor.
func (b *boundedGzip) Reset(r io.Reader) error {
	b.read = 0
	return b.Reader.Reset(r)
}

// Read implements io.Reader.
func (b *boundedGzip) Read(p []byte) (int, error) {
	left := b.limit + 1 - b.read
	if left <= 0 {
		return 0, errInflated
	}
	n, err := b.Reader.Read(p[:min(len(p), left)])
	b.read += n
	return n, err
}
