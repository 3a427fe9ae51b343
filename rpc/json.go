package rpc

import (
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"connectrpc.com/vanguard"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// JSON is strict: a field that is not known is refused, since a misspelt one, "add" for "aad" say, would otherwise be
// left out without a word. Answers show false, 0 and "" as well, so that "changed": false is seen to be an answer.
var jsonAnswers = protojson.MarshalOptions{EmitDefaultValues: true}

// strictJSON is the JSON codec of the RPC protocols. Connect's own ignores unknown fields.
type strictJSON struct{ name string }

func (c strictJSON) Name() string { return c.name }

func (c strictJSON) IsBinary() bool { return false }

func (c strictJSON) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend lets connect use its buffers again.
func (c strictJSON) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	return jsonAnswers.MarshalAppend(dst, m)
}

func (c strictJSON) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a protobuf message", message)
	}
	if len(data) == 0 {
		return errors.New("the body is empty: send at least {}")
	}
	return protojson.Unmarshal(data, m)
}

// restJSON is the strict codec for REST. Its errors carry the code that the transcoder would otherwise not choose.
type restJSON struct{ *vanguard.JSONCodec }

func newRESTJSON(types vanguard.TypeResolver) vanguard.Codec {
	codec := vanguard.NewJSONCodec(types)
	codec.UnmarshalOptions.DiscardUnknown = false
	codec.MarshalOptions.EmitUnpopulated = jsonAnswers.EmitUnpopulated
	codec.MarshalOptions.EmitDefaultValues = jsonAnswers.EmitDefaultValues
	return restJSON{codec}
}

func (c restJSON) Unmarshal(data []byte, m proto.Message) error {
	return invalidArgument(c.JSONCodec.Unmarshal(data, m))
}

func (c restJSON) UnmarshalField(data []byte, m proto.Message, f protoreflect.FieldDescriptor) error {
	return invalidArgument(c.JSONCodec.UnmarshalField(data, m, f))
}

func invalidArgument(err error) error {
	if err == nil {
		return nil
	}
	return connect.NewError(connect.CodeInvalidArgument, err)
}
