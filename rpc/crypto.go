package rpc

import (
	"context"
	"errors"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// defaultDataKeyBytes is the size of a data key when the request says none: 256 bits.
const defaultDataKeyBytes = 32

// cryptoService implements kms.v1.CryptoService.
type cryptoService struct{ s *Server }

func (c *cryptoService) Encrypt(ctx context.Context, r *kmsv1.EncryptRequest) (*kmsv1.EncryptResponse, error) {
	ref, err := c.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	result, err := c.s.cfg.Commands.Encrypt(ctx, callerOf(ctx), commands.EncryptRequest{
		Ref: ref, Plaintext: r.GetPlaintext(), AAD: r.GetAad(), Context: r.GetContext(),
	})
	if err != nil {
		return nil, err
	}
	return encryptProto(result), nil
}

func encryptProto(r commands.EncryptResult) *kmsv1.EncryptResponse {
	return &kmsv1.EncryptResponse{Ciphertext: r.Ciphertext, Name: r.Name.String(), Version: int32(r.Version)}
}

func (c *cryptoService) Decrypt(ctx context.Context, r *kmsv1.DecryptRequest) (*kmsv1.DecryptResponse, error) {
	ref, err := c.source(r.GetName(), r.GetParent())
	if err != nil {
		return nil, err
	}
	result, err := c.s.cfg.Commands.Decrypt(ctx, callerOf(ctx), commands.DecryptRequest{
		Ref: ref, Ciphertext: r.GetCiphertext(), AAD: r.GetAad(), Context: r.GetContext(),
	})
	if err != nil {
		return nil, err
	}
	return decryptProto(result), nil
}

func decryptProto(r commands.DecryptResult) *kmsv1.DecryptResponse {
	return &kmsv1.DecryptResponse{Plaintext: r.Plaintext, Name: r.Name.String(), Version: int32(r.Version), IsPrimary: r.IsPrimary}
}

// source reads what a ciphertext is said to be of: a key, or at least a project and location. Both may be left out.
func (c *cryptoService) source(name, parent string) (domain.KeyRef, error) {
	ref, err := c.s.optionalKeyRef(name)
	if err != nil || parent == "" {
		return ref, err
	}
	place, err := c.s.location(parent)
	switch {
	case err != nil:
		return domain.KeyRef{}, err
	case name == "":
		return domain.KeyRef{Name: place}, nil
	case ref.Name.Project != place.Project:
		return domain.KeyRef{}, badField("name is not in parent: give one of them, or both of the same project and location")
	}
	return ref, nil
}

func (c *cryptoService) ReEncrypt(ctx context.Context, r *kmsv1.ReEncryptRequest) (*kmsv1.ReEncryptResponse, error) {
	ref, err := c.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	result, err := c.s.cfg.Commands.ReEncrypt(ctx, callerOf(ctx), commands.ReEncryptRequest{
		Ciphertext: r.GetCiphertext(), SourceAAD: r.GetSourceAad(), SourceContext: r.GetSourceContext(),
		Ref: ref, AAD: r.GetAad(), Context: r.GetContext(), OnlyIfStale: r.GetOnlyIfStale(),
	})
	if err != nil {
		return nil, err
	}
	return &kmsv1.ReEncryptResponse{
		Ciphertext: result.Ciphertext, Name: result.Name.String(), Version: int32(result.Version),
		SourceName: result.Source.String(), SourceVersion: int32(result.SourceVersion), Changed: result.Changed,
	}, nil
}

func (c *cryptoService) BatchEncrypt(ctx context.Context, r *kmsv1.BatchEncryptRequest) (*kmsv1.BatchEncryptResponse, error) {
	ref, err := c.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	items := make([]commands.EncryptItem, len(r.GetItems()))
	for i, item := range r.GetItems() {
		items[i] = commands.EncryptItem{Plaintext: item.GetPlaintext(), AAD: item.GetAad(), Context: item.GetContext(), Err: c.checkItem(item)}
	}
	results, err := c.s.cfg.Commands.BatchEncrypt(ctx, callerOf(ctx), ref, items)
	if err != nil {
		return nil, err
	}
	out := &kmsv1.BatchEncryptResponse{Outcomes: make([]*kmsv1.BatchEncryptResponse_Outcome, len(results))}
	for i, result := range results {
		if result.Err != nil {
			logIfOurs(ctx, c.s.cfg.Log, callFrom(ctx), result.Err)
			out.Outcomes[i] = &kmsv1.BatchEncryptResponse_Outcome{Result: &kmsv1.BatchEncryptResponse_Outcome_Error{Error: itemError(result.Err)}}
			continue
		}
		out.Outcomes[i] = &kmsv1.BatchEncryptResponse_Outcome{Result: &kmsv1.BatchEncryptResponse_Outcome_Ok{Ok: encryptProto(result.OK)}}
	}
	return out, nil
}

func (c *cryptoService) BatchDecrypt(ctx context.Context, r *kmsv1.BatchDecryptRequest) (*kmsv1.BatchDecryptResponse, error) {
	var project string
	if r.GetParent() != "" {
		place, err := c.s.location(r.GetParent())
		if err != nil {
			return nil, err
		}
		project = place.Project
	}
	items := make([]commands.DecryptItem, len(r.GetItems()))
	for i, item := range r.GetItems() {
		items[i] = commands.DecryptItem{Ciphertext: item.GetCiphertext(), AAD: item.GetAad(), Context: item.GetContext(), Err: c.checkItem(item)}
		if items[i].Err == nil {
			items[i].Ref, items[i].Err = c.itemSource(item.GetName(), r.GetParent())
		}
	}
	results, err := c.s.cfg.Commands.BatchDecrypt(ctx, callerOf(ctx), project, items)
	if err != nil {
		return nil, err
	}
	out := &kmsv1.BatchDecryptResponse{Outcomes: make([]*kmsv1.BatchDecryptResponse_Outcome, len(results))}
	for i, result := range results {
		if result.Err != nil {
			logIfOurs(ctx, c.s.cfg.Log, callFrom(ctx), result.Err)
			out.Outcomes[i] = &kmsv1.BatchDecryptResponse_Outcome{Result: &kmsv1.BatchDecryptResponse_Outcome_Error{Error: itemError(result.Err)}}
			continue
		}
		out.Outcomes[i] = &kmsv1.BatchDecryptResponse_Outcome{Result: &kmsv1.BatchDecryptResponse_Outcome_Ok{Ok: decryptProto(result.OK)}}
	}
	return out, nil
}

// checkItem applies an item's own rules. They are not applied to the whole request, where one bad item would fail all.
// The item's refusal is recorded with the batch.
func (c *cryptoService) checkItem(item proto.Message) error {
	err := c.s.validator.Validate(item)
	if broken, ok := errors.AsType[*protovalidate.ValidationError](err); ok {
		return refusalOf(invalidMessage(broken))
	}
	return err
}

// itemSource is source for an item, whose refusal is recorded with the batch.
func (c *cryptoService) itemSource(name, parent string) (domain.KeyRef, error) {
	ref, err := c.source(name, parent)
	if err != nil {
		return domain.KeyRef{}, refusalOf(err)
	}
	return ref, nil
}

func (c *cryptoService) GenerateDataKey(ctx context.Context, r *kmsv1.GenerateDataKeyRequest) (*kmsv1.GenerateDataKeyResponse, error) {
	ref, err := c.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	size := defaultDataKeyBytes
	switch given := r.GetSize().(type) {
	case *kmsv1.GenerateDataKeyRequest_Bits:
		size = int(given.Bits) / 8
	case *kmsv1.GenerateDataKeyRequest_NumberOfBytes:
		size = int(given.NumberOfBytes)
	}
	result, err := c.s.cfg.Commands.GenerateDataKey(ctx, callerOf(ctx), commands.DataKeyRequest{
		Ref: ref, Bytes: size, WithPlaintext: r.GetWithPlaintext(), AAD: r.GetAad(), Context: r.GetContext(),
	})
	if err != nil {
		return nil, err
	}
	return &kmsv1.GenerateDataKeyResponse{
		Ciphertext: result.Ciphertext, Plaintext: result.Plaintext, Name: result.Name.String(), Version: int32(result.Version),
	}, nil
}

func (c *cryptoService) GenerateRandomBytes(ctx context.Context, r *kmsv1.GenerateRandomBytesRequest) (*kmsv1.GenerateRandomBytesResponse, error) {
	place, err := c.s.location(r.GetParent())
	if err != nil {
		return nil, err
	}
	data, err := c.s.cfg.Commands.GenerateRandomBytes(ctx, callerOf(ctx), place.Project, int(r.GetNumberOfBytes()))
	if err != nil {
		return nil, err
	}
	return &kmsv1.GenerateRandomBytesResponse{Data: data}, nil
}
