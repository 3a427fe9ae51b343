package rpc

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/keyledger/kms/domain"
)

// Authenticator finds out who holds a bearer token. It must take the same time for every wrong token, and may be called
// by any number of goroutines.
type Authenticator interface {
	Authenticate(token string) (principal string, kind domain.PrincipalKind, ok bool)
}

// AdminKey is an Authenticator that knows the instance admin's access key, by its SHA-256.
type AdminKey [sha256.Size]byte

// Authenticate compares in constant time.
func (k AdminKey) Authenticate(token string) (string, domain.PrincipalKind, bool) {
	sum := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(sum[:], k[:]) != 1 {
		return "", "", false
	}
	return "admin", domain.KindAdmin, true
}

// authenticate sets the call's principal from the Authorization header (RFC 6750, section 2.1), which must hold exactly
// one credential: with two it would be unclear in whose name the request is recorded.
func (s *Server) authenticate(c *call, h http.Header) *domain.Error {
	values := h["Authorization"]
	switch {
	case len(values) == 0:
		return &domain.Error{Reason: domain.ReasonMissingCredential, Message: "a credential is missing: send the header 'Authorization: Bearer <access key>'"}
	case len(values) > 1 || strings.Contains(values[0], ","): // a proxy may have joined two headers by a comma, which no token holds
		return &domain.Error{Reason: domain.ReasonTwoCredentials, Message: "the request has more than one credential: send exactly one Authorization header"}
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return &domain.Error{Reason: domain.ReasonBadCredential, Message: "the credential must be a bearer token: 'Authorization: Bearer <access key>'"}
	}
	principal, kind, ok := s.cfg.Authenticator.Authenticate(strings.TrimSpace(token))
	if !ok {
		return &domain.Error{Reason: domain.ReasonBadCredential, Message: "the credential is not valid here; look whether it is complete, was revoked, or belongs to another server"}
	}
	c.caller.Principal, c.caller.Kind = principal, kind
	return nil
}
