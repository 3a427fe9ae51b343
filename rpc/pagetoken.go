package rpc

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"

	"github.com/keyledger/kms/domain"
)

// pageTokens seals where a page ended, so that a token can be used only as it was given: with the same query, on the
// same history of the same site. A token is not secret: it holds names that the page has shown.
type pageTokens struct {
	key     []byte
	lineage domain.UID
}

const (
	tokenFormat = 1
	tokenMAC    = 16 // bytes of HMAC-SHA-256 that are kept
)

// seal makes the token of a position in the results of a query.
func (p pageTokens) seal(position string, query ...string) string {
	mac := p.mac(position, query)
	token := append([]byte{tokenFormat}, mac...)
	return base64.RawURLEncoding.EncodeToString(append(token, position...))
}

// open returns the position. Anything but a token for this very query is refused with ReasonBadPageToken.
func (p pageTokens) open(token string, query ...string) (string, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < 1+tokenMAC || raw[0] != tokenFormat {
		return "", errPageToken
	}
	position := string(raw[1+tokenMAC:])
	if !hmac.Equal(raw[1:1+tokenMAC], p.mac(position, query)) {
		return "", errPageToken
	}
	return position, nil
}

var errPageToken = &unrecordedError{&domain.Error{
	Reason: domain.ReasonBadPageToken, Message: "page_token is not the next_page_token of this very query: change nothing but page_size and skip between pages, or start again without it",
}}

func (p pageTokens) mac(position string, query []string) []byte {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte("kms page token\x01"))
	mac.Write(p.lineage[:])
	var size [8]byte
	for _, part := range append(slices.Clip(query), position) {
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		mac.Write(size[:])
		mac.Write([]byte(part))
	}
	return mac.Sum(nil)[:tokenMAC]
}
