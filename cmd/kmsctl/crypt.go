package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/keyledger/kms/cmd/kmsctl/internal/sealedfile"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// fileFlags name what is read and what is written.
type fileFlags struct {
	In  string `short:"i" placeholder:"FILE" help:"File to read; standard input if there is none."`
	Out string `short:"o" placeholder:"FILE" help:"File to write; standard output if there is none. It appears when it is complete."`
}

// bindingFlags are what a ciphertext is bound to: decryption needs the same.
type bindingFlags struct {
	AAD     string `name:"aad" xor:"aad" placeholder:"TEXT" help:"Additional data that is authenticated, not stored; decryption needs the same."`
	AADFile string `name:"aad-file" xor:"aad" placeholder:"FILE" help:"File with the additional data."`
	Context string `placeholder:"TEXT" help:"A second such value: by custom, the place that the ciphertext belongs to."`
}

// aad is the additional data.
func (f bindingFlags) aad() ([]byte, error) { return textOrFile(f.AAD, f.AADFile) }

func textOrFile(text, file string) ([]byte, error) {
	if file == "" {
		return []byte(text), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the additional data: %w", err)
	}
	return b, nil
}

type encryptCmd struct {
	keyArg
	fileFlags
	bindingFlags
	Version int32 `placeholder:"N" help:"Encrypt with this version instead of the primary."`
	Stream  bool  `help:"Use a data key even if the input is small enough for the server."`
	Base64  bool  `name:"base64" help:"Write base64; a terminal gets it anyway. decrypt recognises it."`
}

// Run encrypts. What fits into one call of Encrypt is its ciphertext; what doesn't is a sealed file.
func (c *encryptCmd) Run(ctx context.Context, s *session) (err error) {
	name, err := s.scope.keyOrVersion(c.Key, c.Version)
	if err != nil {
		return err
	}
	aad, err := c.aad()
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	in, err := s.open(ctx, c.In)
	if err != nil {
		return err
	}
	defer closeInput(in, &err)

	start := make([]byte, domain.MaxPlaintext+1)
	defer clear(start)
	n, err := io.ReadFull(in, start)
	small := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err != nil && !small {
		return fmt.Errorf("reading the input: %w", err)
	}
	start = start[:n]
	if small && !c.Stream {
		resp, err := call(ctx, cl, cl.Encrypt, &kmsv1.EncryptRequest{Name: name, Plaintext: start, Aad: aad, Context: []byte(c.Context)})
		if err != nil {
			return err
		}
		return s.writeCiphertext(c.fileFlags, c.Base64, func(w io.Writer) error {
			_, err := w.Write(resp.GetCiphertext())
			return err
		})
	}
	dataKey, err := call(ctx, cl, cl.GenerateDataKey, &kmsv1.GenerateDataKeyRequest{
		Name: name, Size: &kmsv1.GenerateDataKeyRequest_NumberOfBytes{NumberOfBytes: sealedfile.DataKeySize},
		WithPlaintext: true, Aad: aad, Context: []byte(c.Context),
	})
	if err != nil {
		return err
	}
	defer clear(dataKey.GetPlaintext())
	return s.writeCiphertext(c.fileFlags, c.Base64, func(w io.Writer) error {
		sealed, err := sealedfile.NewWriter(w, dataKey.GetPlaintext(), dataKey.GetCiphertext())
		if err != nil {
			return err
		}
		clear(dataKey.GetPlaintext())
		from, done := s.withProgress(io.MultiReader(bytes.NewReader(start), in), in.size, "encrypting")
		defer done()
		if _, err := io.Copy(sealed, from); err != nil {
			return fmt.Errorf("encrypting: %w", err)
		}
		return sealed.Close()
	})
}

// writeCiphertext writes what write makes to the output, as base64 if asked or if a person would see it.
func (s *session) writeCiphertext(f fileFlags, asBase64 bool, write func(io.Writer) error) error {
	out, err := s.create(f.Out, 0o666)
	if err != nil {
		return err
	}
	defer out.Discard()
	if asBase64 || (out.file == nil && s.outTerminal) {
		encoder := base64.NewEncoder(base64.StdEncoding, out)
		if err := write(encoder); err != nil {
			return err
		}
		if err := encoder.Close(); err != nil {
			return fmt.Errorf("writing the output: %w", err)
		}
		if _, err := io.WriteString(out, "\n"); err != nil {
			return fmt.Errorf("writing the output: %w", err)
		}
	} else if err := write(out); err != nil {
		return err
	}
	return out.Commit()
}

// closeInput closes in, and tells an error of that if there is no other.
func closeInput(in *inputFile, err *error) {
	if closeErr := in.close(); closeErr != nil && *err == nil {
		*err = fmt.Errorf("closing the input: %w", closeErr)
	}
}

type decryptCmd struct {
	Key string `arg:"" optional:"" help:"The key, or version, that the ciphertext must be of; it names its key itself."`
	fileFlags
	bindingFlags
}

// Run decrypts. Nothing that was not verified is written. If the end of the input is missing or damaged, a file is not
// written at all; standard output has what came before it, and the command fails.
func (c *decryptCmd) Run(ctx context.Context, s *session) (err error) {
	req := &kmsv1.DecryptRequest{Context: []byte(c.Context)}
	if c.Key != "" {
		if req.Name, err = s.scope.keyOrVersion(c.Key, 0); err != nil {
			return err
		}
	}
	if req.Aad, err = c.aad(); err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	in, err := s.open(ctx, c.In)
	if err != nil {
		return err
	}
	defer closeInput(in, &err)
	progress, done := s.withProgress(in, in.size, "decrypting")
	defer done()
	source, err := readCiphertext(progress)
	if err != nil {
		return err
	}
	out, err := s.create(c.Out, 0o600)
	if err != nil {
		return err
	}
	defer out.Discard()
	if !source.sealed {
		if req.Ciphertext, err = source.whole(); err != nil {
			return err
		}
		resp, err := call(ctx, cl, cl.Decrypt, req)
		if err != nil {
			return err
		}
		defer clear(resp.GetPlaintext())
		if _, err := out.Write(resp.GetPlaintext()); err != nil {
			return fmt.Errorf("writing the output: %w", err)
		}
		return out.Commit()
	}
	header, err := sealedfile.ReadHeader(source)
	if err != nil {
		return err
	}
	req.Ciphertext = header.EncryptedDataKey
	dataKey, err := call(ctx, cl, cl.Decrypt, req)
	if err != nil {
		return err
	}
	defer clear(dataKey.GetPlaintext())
	content, err := header.NewReader(source, dataKey.GetPlaintext())
	if err != nil {
		return err
	}
	clear(dataKey.GetPlaintext())
	if _, err := io.Copy(out, content); err != nil {
		return fmt.Errorf("decrypting: %w", err)
	}
	return out.Commit()
}

// ciphertext is an input whose kind is known.
type ciphertext struct {
	io.Reader
	sealed bool // a sealed file, else a ciphertext of the service
	base64 bool // it was written as base64
}

// A ciphertext of the service begins with this byte, and so does a sealed file. base64Start is how both begin as base64.
const (
	ciphertextStart = 0xCB
	base64Start     = "yw"
)

var errNotCiphertext = errors.New("the input is no ciphertext of Keyledger: neither what encrypt writes nor base64 of it")

// readCiphertext looks at the beginning of r and says what it is.
func readCiphertext(r io.Reader) (*ciphertext, error) {
	c := &ciphertext{}
	buffered := bufio.NewReaderSize(r, 64<<10)
	start, err := buffered.Peek(len(base64Start))
	if err == nil && string(start) == base64Start {
		c.base64 = true
		buffered = bufio.NewReaderSize(base64.NewDecoder(base64.StdEncoding, buffered), 64<<10)
	}
	start, err = buffered.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the input: %w", err)
	}
	if len(start) == 0 || start[0] != ciphertextStart {
		return nil, errNotCiphertext
	}
	c.Reader, c.sealed = buffered, sealedfile.Detect(start)
	return c, nil
}

// whole reads a ciphertext of the service.
func (c *ciphertext) whole() ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(c, domain.MaxEnvelope+1))
	if err != nil {
		return nil, fmt.Errorf("reading the input: %w", err)
	}
	if len(b) > domain.MaxEnvelope {
		return nil, errNotCiphertext
	}
	return b, nil
}

type reencryptCmd struct {
	keyArg
	fileFlags
	bindingFlags
	NewAAD      *string `name:"new-aad" xor:"newaad" placeholder:"TEXT" help:"Additional data of the new ciphertext, if it is to be other than of the old."`
	NewAADFile  string  `name:"new-aad-file" xor:"newaad" placeholder:"FILE" help:"File with the additional data of the new ciphertext."`
	NewContext  *string `placeholder:"TEXT" help:"Context of the new ciphertext, if it is to be other than of the old."`
	Version     int32   `placeholder:"N" help:"Encrypt with this version instead of the primary."`
	OnlyIfStale bool    `help:"Leave a ciphertext alone that this would make no newer."`
	Base64      bool    `name:"base64" help:"Write base64; what was base64 stays so."`
}

// Run encrypts again. Of a sealed file only the encrypted data key in the header is replaced, whatever the file's size:
// what follows the header is copied and not verified.
func (c *reencryptCmd) Run(ctx context.Context, s *session) (err error) {
	req, err := c.request(s.scope)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	in, err := s.open(ctx, c.In)
	if err != nil {
		return err
	}
	defer closeInput(in, &err)
	progress, done := s.withProgress(in, in.size, "copying")
	defer done()
	source, err := readCiphertext(progress)
	if err != nil {
		return err
	}
	var header sealedfile.Header
	if source.sealed {
		if header, err = sealedfile.ReadHeader(source); err != nil {
			return err
		}
		req.Ciphertext = header.EncryptedDataKey
	} else if req.Ciphertext, err = source.whole(); err != nil {
		return err
	}
	resp, err := call(ctx, cl, cl.ReEncrypt, req)
	if err != nil {
		return err
	}
	err = s.writeCiphertext(c.fileFlags, c.Base64 || source.base64, func(w io.Writer) error {
		start := resp.GetCiphertext()
		if source.sealed {
			header.EncryptedDataKey = resp.GetCiphertext()
			if start, err = header.AppendBinary(nil); err != nil {
				return err
			}
		}
		if _, err := io.Copy(w, io.MultiReader(bytes.NewReader(start), source)); err != nil {
			return fmt.Errorf("copying: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if resp.GetChanged() {
		s.remark("encrypted again with version %d", resp.GetVersion())
	} else {
		s.remark("unchanged: it is of version %d already", resp.GetVersion())
	}
	return nil
}

// request is the request less the ciphertext.
func (c *reencryptCmd) request(scope scopeFlags) (*kmsv1.ReEncryptRequest, error) {
	name, err := scope.keyOrVersion(c.Key, c.Version)
	if err != nil {
		return nil, err
	}
	aad, err := c.aad()
	if err != nil {
		return nil, err
	}
	req := &kmsv1.ReEncryptRequest{
		Name: name, SourceAad: aad, SourceContext: []byte(c.Context), Aad: aad, Context: []byte(c.Context), OnlyIfStale: c.OnlyIfStale,
	}
	switch {
	case c.NewAAD != nil:
		req.Aad = []byte(*c.NewAAD)
	case c.NewAADFile != "":
		if req.Aad, err = textOrFile("", c.NewAADFile); err != nil {
			return nil, err
		}
	}
	if c.NewContext != nil {
		req.Context = []byte(*c.NewContext)
	}
	return req, nil
}
