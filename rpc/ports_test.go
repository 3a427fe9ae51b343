package rpc_test

import (
	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/projections"
	"github.com/keyledger/kms/rpc"
)

// What the server is wired with fits what this package asks for.
var (
	_ rpc.Commands = (*commands.Service)(nil)
	_ rpc.Keys     = (*projections.Keys)(nil)
	_ rpc.Roots    = (*commands.Roots)(nil)
)
