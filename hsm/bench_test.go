package hsm

import "testing"

func BenchmarkEncrypt32(b *testing.B) {
	key, _ := newKey(b)
	plaintext, aad := make([]byte, 32), make([]byte, 40)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, err := shared.Encrypt(b.Context(), key, plaintext, aad); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkDecrypt32(b *testing.B) {
	key, _ := newKey(b)
	aad := make([]byte, 40)
	iv, ct, err := shared.Encrypt(b.Context(), key, make([]byte, 32), aad)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := shared.Decrypt(b.Context(), key, iv, ct, aad); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGenerate(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := shared.Generate(b.Context(), newBinding()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHealth(b *testing.B) {
	for b.Loop() {
		if err := shared.Health(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
