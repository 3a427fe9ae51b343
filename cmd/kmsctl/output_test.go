package main

import (
	"bytes"
	"encoding/json"
	"testing"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"plain, with ünïcode 鍵":     "plain, with ünïcode 鍵",
		"\x1b[31mred":               `\x1b[31mred`,
		"two\nlines\tand a tab":     `two\nlines\tand a tab`,
		"right-to-left \u202e mark": `right-to-left \u202e mark`,
		"not UTF-8 \xff":            "not UTF-8 \ufffd",
		"C1 \u009b control":         `C1 \u009b control`,
	} {
		if got := printable(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

func TestRows(t *testing.T) {
	var out bytes.Buffer
	r := &rows{}
	r.add("KEY", "STATE", "NOTE")
	r.add("a", "ENABLED", "")
	r.add("long-name", "", "x\ty")
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"KEY        STATE    NOTE\n" +
		"a          ENABLED\n" +
		"long-name           x\\ty\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestJSONIsAlwaysTheSame(t *testing.T) {
	key := &kmsv1.Key{Name: "n", State: kmsv1.Key_ENABLED, Labels: map[string]string{"b": "2", "a": "1"}, Revision: 1 << 60}
	var first bytes.Buffer
	if err := printJSON(&first, key); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(first.Bytes()) || !bytes.HasSuffix(first.Bytes(), []byte("}\n")) {
		t.Errorf("got %q", first.String())
	}
	if !bytes.Contains(first.Bytes(), []byte(`"name": "n"`)) {
		t.Errorf("got %s, want one space after each colon", first.String())
	}
}
