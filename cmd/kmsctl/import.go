package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/uuid"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

type importKeyCmd struct {
	keyArg
	formatFlags
	File        string `required:"" short:"f" placeholder:"FILE" help:"The key: the bytes themselves of an AES or HMAC key, PEM or PKCS#8 DER of an RSA or EC key; - is standard input."`
	Job         string `placeholder:"JOB" help:"The import job to wrap it for; without one a job is made, and ended afterwards."`
	Number      int32  `name:"version" placeholder:"N" help:"The version whose material was deleted and is to be given back; a new one without this."`
	MakePrimary bool   `help:"Make new ciphertexts with the version from then on."`
	Etag        string `placeholder:"ETAG" help:"Import only if nothing else changed since this etag was shown."`
}

// Run wraps the key here, so that it leaves this machine only under a key of the server's token.
func (c *importKeyCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	content, err := s.keyFile(c.File)
	if err != nil {
		return err
	}
	defer clear(content)
	cl, err := s.client()
	if err != nil {
		return err
	}
	key, err := call(ctx, cl, cl.GetKey, &kmsv1.GetKeyRequest{Name: name})
	if err != nil {
		return err
	}
	material, err := materialOf(key.GetAlgorithm(), content)
	if err != nil {
		return fmt.Errorf("%s: %w", printable(c.File), err)
	}
	defer clear(material)
	job, done, err := c.job(ctx, s, cl, key.GetName())
	if err != nil {
		return err
	}
	defer done()
	wrapped, err := wrapFor(job, material)
	if err != nil {
		return fmt.Errorf("wrapping the key: %w", err)
	}
	v, err := call(ctx, cl, cl.ImportKeyVersion, &kmsv1.ImportKeyVersionRequest{
		Name: key.GetName(), RequestId: uuid.NewString(), Etag: c.Etag, ImportJob: job.GetName(),
		Material: &kmsv1.ImportKeyVersionRequest_WrappedKey{WrappedKey: wrapped}, Version: c.Number, MakePrimary: c.MakePrimary,
	})
	if err != nil {
		return s.unrepeatable(err)
	}
	return s.print(c.formatFlags, v, func(r *rows) { describeVersion(r, v) })
}

// job gets the job, or makes one; done ends one that was made.
func (c *importKeyCmd) job(ctx context.Context, s *session, cl *client, key string) (job *kmsv1.ImportJob, done func(), err error) {
	ref, err := domain.ParseKeyRef(key)
	if err != nil {
		return nil, nil, err
	}
	if c.Job != "" {
		name := c.Job
		if !strings.HasPrefix(name, "projects/") { // of the key's ring, whatever the key was named by
			name = ref.Name.RingName().ImportJob(name).String()
		}
		job, err := call(ctx, cl, cl.GetImportJob, &kmsv1.GetImportJobRequest{Name: name})
		return job, func() {}, err
	}
	id := uuid.NewString()
	job, err = call(ctx, cl, cl.CreateImportJob, &kmsv1.CreateImportJobRequest{
		Parent: ref.Name.RingName().String(), ImportJobId: "kmsctl-" + id, RequestId: id,
		ImportJob: &kmsv1.ImportJob{Method: kmsv1.ImportJob_RSA_OAEP_3072_SHA256_AES_256},
	})
	if err != nil {
		return nil, nil, s.unrepeatable(err)
	}
	return job, func() {
		_, err := call(context.WithoutCancel(ctx), cl, cl.CancelImport, &kmsv1.CancelImportRequest{Name: job.GetName(), RequestId: uuid.NewString()})
		if err != nil {
			s.remark("import job %s is left to expire: %s", printable(job.GetName()), describe(err))
		}
	}, nil
}

// unrepeatable is err without the advice to repeat the command with its request id: the key would be wrapped anew, which
// makes another request of it.
func (s *session) unrepeatable(err error) error {
	if e, ok := errors.AsType[*unansweredError](err); ok {
		e.requestID = ""
		s.remark("the same command once more is safe: a key that was imported already is refused as MATERIAL_KNOWN or MATERIAL_IN_PLACE")
	}
	return err
}

// maxKeyFile is larger than any key; it keeps a wrong file from being read for long.
const maxKeyFile = 64 << 10

func (s *session) keyFile(path string) (content []byte, err error) {
	in := s.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // nothing was written
		in = f
	}
	content, err = io.ReadAll(io.LimitReader(in, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	if len(content) == 0 || len(content) > maxKeyFile {
		return nil, fmt.Errorf("%s holds no key: it is empty, or larger than %d bytes", printable(path), maxKeyFile)
	}
	return content, nil
}

// materialOf is what is wrapped of a key's file: the bytes of a secret key, or the PKCS#8 of a private one.
func materialOf(a kmsv1.Key_Algorithm, content []byte) ([]byte, error) {
	if name := a.String(); !strings.HasPrefix(name, "RSA_") && !strings.HasPrefix(name, "EC_") {
		return content, nil
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return content, nil // DER; the server finds out whether it is
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		return block.Bytes, nil
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("a %s can't be imported; make an unencrypted PKCS#8 of it, e.g. by openssl pkcs8 -topk8 -nocrypt", printable(block.Type))
	}
	if err != nil {
		return nil, fmt.Errorf("the private key can't be read; make an unencrypted PKCS#8 of it, e.g. by openssl pkcs8 -topk8 -nocrypt: %w", err)
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

// wrapFor wraps material as the job's method says.
func wrapFor(job *kmsv1.ImportJob, material []byte) ([]byte, error) {
	block, _ := pem.Decode([]byte(job.GetPublicKey()))
	if block == nil {
		return nil, errors.New("the import job has no public key")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("the import job's public key is no RSA key")
	}
	if !strings.HasSuffix(job.GetMethod().String(), "_AES_256") {
		return rsa.EncryptOAEP(sha256.New(), rand.Reader, public, material, nil)
	}
	ephemeral := make([]byte, 32)
	if _, err := rand.Read(ephemeral); err != nil {
		return nil, err
	}
	defer clear(ephemeral)
	kwp, err := subtle.NewKWP(ephemeral)
	if err != nil {
		return nil, err
	}
	wrapped, err := kwp.Wrap(material)
	if err != nil {
		return nil, err
	}
	first, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, ephemeral, nil)
	return append(first, wrapped...), err
}

type deleteMaterialCmd struct {
	versionArg
	guardFlags
	formatFlags
}

func (c *deleteMaterialCmd) Run(ctx context.Context, s *session) error {
	return s.version(c.versionArg, c.formatFlags, func(cl *client, name string) (*kmsv1.KeyVersion, error) {
		return call(ctx, cl, cl.DeleteKeyMaterial, &kmsv1.DeleteKeyMaterialRequest{Name: name, RequestId: c.id(), Etag: c.Etag})
	})
}

// publicKeyFormat is how a public key is written, as it is typed.
type publicKeyFormat kmsv1.GetPublicKeyRequest_Format

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *publicKeyFormat) UnmarshalText(text []byte) (err error) {
	*f, err = enumValue[publicKeyFormat](text, kmsv1.GetPublicKeyRequest_Format_value)
	return err
}

type publicKeyCmd struct {
	versionArg
	readFlags
	Format publicKeyFormat `default:"PEM" help:"PEM, DER or JWK (${default})."`
}

// Run writes the public key and nothing else.
func (c *publicKeyCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.keyOrVersion(c.Key, c.Number)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	key, err := call(ctx, cl, cl.GetPublicKey, &kmsv1.GetPublicKeyRequest{
		Name: name, MinRevision: c.MinRevision, Format: kmsv1.GetPublicKeyRequest_Format(c.Format),
	})
	if err != nil {
		return err
	}
	out := key.GetDer()
	switch {
	case key.GetPem() != "":
		out = []byte(key.GetPem())
	case key.GetJwk() != "":
		out = []byte(key.GetJwk() + "\n")
	}
	_, err = s.out.Write(out)
	return err
}
