package sealedfile

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
)

// Writer encrypts what is written to it. Nothing but Close makes the file complete: without it readers see a truncated
// one. A Writer holds one chunk of content in memory, until Close.
type Writer struct {
	to    io.Writer
	keys  derived
	fixed []byte

	number  uint32 // of the chunk being filled
	full    bool   // number can't be counted up any more
	content []byte // of that chunk
	sealed  []byte // scratch
	err     error  // sticky
}

// NewWriter writes a header to w and returns a Writer for the content. dataKey must be used for this file alone;
// encryptedDataKey is the same key as the service encrypted it. NewWriter doesn't keep dataKey: the caller clears it.
func NewWriter(w io.Writer, dataKey, encryptedDataKey []byte) (*Writer, error) {
	return newWriter(w, dataKey, encryptedDataKey, ChunkSize)
}

func newWriter(w io.Writer, dataKey, encryptedDataKey []byte, chunkSize uint32) (*Writer, error) {
	h := Header{chunkSize: chunkSize, EncryptedDataKey: encryptedDataKey}
	_, _ = rand.Read(h.salt[:]) // never fails: it ends the process instead
	keys, err := h.derive(dataKey)
	if err != nil {
		return nil, err
	}
	h.commitment = keys.commitment
	header, err := h.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(header); err != nil {
		return nil, fmt.Errorf("writing the file's header: %w", err)
	}
	return &Writer{
		to: w, keys: keys, fixed: h.fixed(),
		content: make([]byte, 0, chunkSize),
		sealed:  make([]byte, 0, int(chunkSize)+tagSize),
	}, nil
}

// Write encrypts p. It writes a chunk out when more content follows it, as only then it is known not to be the last.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	done := 0
	for done < len(p) {
		if len(w.content) == cap(w.content) {
			if w.err = w.flush(false); w.err != nil {
				return done, w.err
			}
		}
		n := min(len(p)-done, cap(w.content)-len(w.content))
		w.content = append(w.content, p[done:done+n]...)
		done += n
	}
	return done, nil
}

// Close writes the last chunk. It doesn't close the writer below.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.err = w.flush(true); w.err != nil {
		return w.err
	}
	w.err = errors.New("the encrypted file is closed")
	return nil
}

func (w *Writer) flush(last bool) error {
	if w.full {
		return ErrTooLarge
	}
	w.sealed = w.keys.aead.Seal(w.sealed[:0], w.keys.nonce(w.number, last), w.content, w.fixed)
	clear(w.content)
	w.content = w.content[:0]
	if _, err := w.to.Write(w.sealed); err != nil {
		return fmt.Errorf("writing the encrypted file: %w", err)
	}
	if w.number == math.MaxUint32 {
		w.full = true
	} else {
		w.number++
	}
	return nil
}

// Reader decrypts a file. It gives out a chunk only after it has verified it, and io.EOF only after the last one. Until
// then what it gave out is genuine, but may not be all.
type Reader struct {
	from  *bufio.Reader
	keys  derived
	fixed []byte

	number  uint32 // of the chunk to be read next
	last    bool   // the last chunk was read
	sealed  []byte // scratch
	content []byte // scratch
	unread  []byte // the part of content that is not given out yet
	err     error  // sticky
}

// NewReader returns a Reader of the chunks that follow in r after the header h. The error is ErrWrongKey if dataKey is not
// the file's. NewReader doesn't keep dataKey: the caller clears it.
func (h Header) NewReader(r io.Reader, dataKey []byte) (*Reader, error) {
	keys, err := h.open(dataKey)
	if err != nil {
		return nil, err
	}
	size := int(h.chunkSize) + tagSize
	return &Reader{
		from: bufio.NewReaderSize(r, size+1), keys: keys, fixed: h.fixed(),
		sealed: make([]byte, size), content: make([]byte, 0, h.chunkSize),
	}, nil
}

// Read implements io.Reader. Its errors are those of this package, or of the reader below.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.unread) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.last {
			r.err = io.EOF
			continue
		}
		r.unread, r.err = r.next()
	}
	n := copy(p, r.unread)
	clear(r.unread[:n])
	r.unread = r.unread[n:]
	return n, nil
}

// next reads and verifies one chunk.
func (r *Reader) next() ([]byte, error) {
	n, err := io.ReadFull(r.from, r.sealed)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		r.last = true
	case err != nil:
		return nil, fmt.Errorf("reading the encrypted file: %w", err)
	default:
		switch _, err := r.from.Peek(1); {
		case errors.Is(err, io.EOF):
			r.last = true
		case err != nil:
			return nil, fmt.Errorf("reading the encrypted file: %w", err)
		}
	}
	sealed := r.sealed[:n]
	if n == 0 || (n < tagSize && r.last) {
		return nil, ErrTruncated
	}
	content, err := r.keys.aead.Open(r.content[:0], r.keys.nonce(r.number, r.last), sealed, r.fixed)
	if err != nil {
		return nil, r.explain(sealed)
	}
	if len(content) == 0 && r.number > 0 {
		return nil, ErrCorrupt // no Writer writes this: the chunk before would have been the last
	}
	if !r.last {
		if r.number == math.MaxUint32 {
			return nil, ErrTooLarge
		}
		r.number++
	}
	return content, nil
}

// explain says what is wrong with a chunk that doesn't open. A chunk that opens as what its place says it isn't tells
// that the file was cut, or appended to, at its end.
func (r *Reader) explain(sealed []byte) error {
	if _, err := r.keys.aead.Open(r.content[:0], r.keys.nonce(r.number, !r.last), sealed, r.fixed); err != nil {
		if r.last && len(sealed) < len(r.sealed) {
			return fmt.Errorf("%w, or its end is missing", ErrCorrupt)
		}
		return ErrCorrupt
	}
	clear(r.content[:cap(r.content)])
	if r.last {
		return ErrTruncated
	}
	return ErrTrailing
}
