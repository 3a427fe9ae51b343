package rpc

import (
	"encoding/hex"
	"testing"
)

func TestClientAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:80":          "192.0.2.1",
		"[::ffff:192.0.2.1]:80": "192.0.2.1", // an IPv4 client of a listener for both
		"[fe80::1%eth0]:80":     "fe80::1",
		"[2001:db8::1]:80":      "2001:db8::1",
		"@":                     "invalid IP", // a unix socket
		"":                      "invalid IP",
	} {
		if got := clientAddress(remote).String(); got != want {
			t.Errorf("%q is %s, want %s", remote, got, want)
		}
	}
}

func TestTraceID(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	for parent, want := range map[string]string{
		"00-" + id + "-b7ad6b7169203331-01":                       id,
		"cc-" + id + "-b7ad6b7169203331-01-more":                  id, // a version to come
		"00-" + id:                                                "00000000000000000000000000000000",
		"00-zz" + id[2:] + "-b7ad6b7169203331-01":                 "00000000000000000000000000000000",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": "00000000000000000000000000000000",
	} {
		got := traceID(parent)
		if hex.EncodeToString(got[:]) != want {
			t.Errorf("%s is %x, want %s", parent, got, want)
		}
	}
}
