package rpc

import (
	"context"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

func (k *keyService) AddKeyAlias(ctx context.Context, r *kmsv1.AddKeyAliasRequest) (*kmsv1.Key, error) {
	ref, err := k.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	m, err := mutation(r.GetRequestId(), "")
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.AddKeyAlias(ctx, callerOf(ctx), ref, r.GetAlias(), r.GetMove(), m))
}

func (k *keyService) RemoveKeyAlias(ctx context.Context, r *kmsv1.RemoveKeyAliasRequest) (*kmsv1.Key, error) {
	ref, err := k.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	m, err := mutation(r.GetRequestId(), "")
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.RemoveKeyAlias(ctx, callerOf(ctx), ref, r.GetAlias(), m))
}
