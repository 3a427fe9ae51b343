package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

type datakeyCmd struct {
	keyArg
	formatFlags
	bindingFlags
	Version       int32 `placeholder:"N" help:"Encrypt with this version instead of the primary."`
	Bits          int32 `xor:"size" placeholder:"N" help:"Size of the data key: 128, 256 or 512 bits; 256 if nothing is said."`
	Bytes         int32 `xor:"size" placeholder:"N" help:"Size of the data key in bytes, 1 to 1024."`
	WithPlaintext bool  `help:"Show the data key in the clear as well."`
}

func (c *datakeyCmd) Run(ctx context.Context, s *session) error {
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
	req := &kmsv1.GenerateDataKeyRequest{Name: name, WithPlaintext: c.WithPlaintext, Aad: aad, Context: []byte(c.Context)}
	switch {
	case c.Bits != 0:
		req.Size = &kmsv1.GenerateDataKeyRequest_Bits{Bits: c.Bits}
	case c.Bytes != 0:
		req.Size = &kmsv1.GenerateDataKeyRequest_NumberOfBytes{NumberOfBytes: c.Bytes}
	}
	resp, err := call(ctx, cl, cl.GenerateDataKey, req)
	if err != nil {
		return err
	}
	defer clear(resp.GetPlaintext())
	return s.print(c.formatFlags, resp, func(r *rows) {
		r.field("ciphertext", base64.StdEncoding.EncodeToString(resp.GetCiphertext()))
		r.field("plaintext", base64.StdEncoding.EncodeToString(resp.GetPlaintext()))
		r.field("key", resp.GetName())
		r.field("version", number(resp.GetVersion()))
	})
}

type randomCmd struct {
	Bytes  int32  `arg:"" help:"How many, 1 to 1024."`
	Format string `short:"f" enum:"base64,hex,raw" default:"base64" placeholder:"FORMAT" help:"base64, hex, or raw."`
	Out    string `short:"o" placeholder:"FILE" help:"File to write; standard output if there is none."`
}

func (c *randomCmd) Run(ctx context.Context, s *session) error {
	parent, err := s.scope.parent()
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	resp, err := call(ctx, cl, cl.GenerateRandomBytes, &kmsv1.GenerateRandomBytesRequest{Parent: parent, NumberOfBytes: c.Bytes})
	if err != nil {
		return err
	}
	defer clear(resp.GetData())
	var text []byte
	switch c.Format {
	case "raw":
		text = resp.GetData()
	case "hex":
		text = append(hex.AppendEncode(nil, resp.GetData()), '\n')
	default:
		text = append(base64.StdEncoding.AppendEncode(nil, resp.GetData()), '\n')
	}
	out, err := s.create(c.Out, 0o600)
	if err != nil {
		return err
	}
	defer out.Discard()
	if _, err := out.Write(text); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return out.Commit()
}
