package rpc

import (
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

func (k *keyService) GetPublicKey(ctx context.Context, r *kmsv1.GetPublicKeyRequest) (*kmsv1.GetPublicKeyResponse, error) {
	ref, err := k.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	read := callFrom(ctx).read(ref)
	read.MinRevision = commands.Revision(r.GetMinRevision())
	key, err := k.s.cfg.Commands.GetPublicKey(ctx, callerOf(ctx), read)
	if err != nil {
		return nil, err
	}
	out := &kmsv1.GetPublicKeyResponse{Name: key.Name.VersionName(key.Version), Version: int32(key.Version), Algorithm: algorithms.toProto(key.Algorithm)}
	switch r.GetFormat() {
	case kmsv1.GetPublicKeyRequest_DER:
		out.PublicKey = &kmsv1.GetPublicKeyResponse_Der{Der: key.DER}
	case kmsv1.GetPublicKeyRequest_JWK:
		jwk, err := jwkOf(key)
		if err != nil {
			return nil, fmt.Errorf("writing the public key of %s as a JWK: %w", out.GetName(), err)
		}
		out.PublicKey = &kmsv1.GetPublicKeyResponse_Jwk{Jwk: jwk}
	case kmsv1.GetPublicKeyRequest_FORMAT_UNSPECIFIED, kmsv1.GetPublicKeyRequest_PEM:
		out.PublicKey = &kmsv1.GetPublicKeyResponse_Pem{Pem: publicKeyPEM(key.DER)}
	}
	return out, nil
}

// jwk is a public key by RFC 7517, with the members of RFC 7518 sections 6.2.1 and 6.3.1.
type jwk struct {
	Type      string `json:"kty"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
}

// jwkCurves are the names of RFC 7518 section 6.2.1.1 and of RFC 8812 section 3.1, by the OIDs of the curves.
var jwkCurves = map[string]string{"1.2.840.10045.3.1.7": "P-256", "1.3.132.0.34": "P-384", "1.3.132.0.35": "P-521", "1.3.132.0.10": "secp256k1"}

// jwkAlgorithm is the name of RFC 7518 sections 3.1 and 4.1, or of RFC 8812 section 3.2, for an algorithm.
func jwkAlgorithm(a domain.Algorithm) (name string, ok bool) {
	if name, ok := map[domain.Algorithm]string{ //nolint:exhaustive // those of RSA follow
		domain.ECP256SHA256: "ES256", domain.ECP384SHA384: "ES384", domain.ECP521SHA512: "ES512", domain.ECSecp256k1SHA256: "ES256K",
	}[a]; ok {
		return name, true
	}
	_, scheme, _ := strings.Cut(strings.TrimPrefix(string(a), "RSA_"), "_") // behind the size
	name, ok = map[string]string{
		"OAEP_SHA1": "RSA-OAEP", "OAEP_SHA256": "RSA-OAEP-256",
		"PSS_SHA256": "PS256", "PSS_SHA384": "PS384", "PSS_SHA512": "PS512",
		"PKCS1_SHA256": "RS256", "PKCS1_SHA384": "RS384", "PKCS1_SHA512": "RS512",
	}[scheme]
	return name, ok
}

var errPublicKey = errors.New("it is no public key of a known kind")

func jwkOf(key commands.PublicKey) (string, error) {
	var info struct { // SubjectPublicKeyInfo; the standard library does not read those of secp256k1
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}
	if rest, err := asn1.Unmarshal(key.DER, &info); err != nil || len(rest) > 0 {
		return "", errors.Join(errPublicKey, err)
	}
	alg, ok := jwkAlgorithm(key.Algorithm)
	if !ok {
		return "", errPublicKey
	}
	out := jwk{ID: key.Name.VersionName(key.Version), Use: "sig", Algorithm: alg}
	if strings.HasPrefix(alg, "RSA-OAEP") {
		out.Use = "enc"
	}
	encode := base64.RawURLEncoding.EncodeToString
	if strings.HasPrefix(string(key.Algorithm), "RSA_") {
		var rsa struct{ N, E *big.Int } // RFC 8017 appendix A.1.1
		if rest, err := asn1.Unmarshal(info.PublicKey.Bytes, &rsa); err != nil || len(rest) > 0 {
			return "", errors.Join(errPublicKey, err)
		}
		out.Type, out.N, out.E = "RSA", encode(rsa.N.Bytes()), encode(rsa.E.Bytes())
	} else {
		var curve asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &curve); err != nil {
			return "", errors.Join(errPublicKey, err)
		}
		point := info.PublicKey.Bytes
		if out.Curve = jwkCurves[curve.String()]; out.Curve == "" || len(point)%2 != 1 || point[0] != 4 { // uncompressed
			return "", errPublicKey
		}
		half := 1 + len(point)/2
		out.Type, out.X, out.Y = "EC", encode(point[1:half]), encode(point[half:])
	}
	text, err := json.Marshal(out)
	return string(text), err
}
