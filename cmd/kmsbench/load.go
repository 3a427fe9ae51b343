package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// request is one Connect call in protobuf, as it goes over the wire. The empty request ends a caller's loop.
type request []byte

func (s *server) request(method string, m proto.Message) (request, error) {
	body, err := proto.Marshal(m)
	head := fmt.Appendf(nil, "POST /kms.v1.%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/proto\r\nConnect-Protocol-Version: 1\r\nUser-Agent: kmsbench\r\nContent-Length: %d\r\n\r\n",
		method, s.address, s.token, len(body))
	return append(head, body...), err
}

// closedLoop lets each caller send one request after the other on its own connection, for the duration, and fails with
// the first answer that is not good. It speaks HTTP/1.1 by itself: client and server share the cores, and net/http's
// client would take as much of them as the server.
func closedLoop(ctx context.Context, s *server, callers int, duration time.Duration, requests []func() request) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	latencies := make([][]time.Duration, callers)
	errs := make([]error, callers)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			latencies[i], errs[i] = s.caller(ctx, requests[i])
			if errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	r := result{callers: callers, elapsed: time.Since(start), latencies: slices.Concat(latencies...)}
	r.operations = len(r.latencies)
	slices.Sort(r.latencies)
	return r, errors.Join(errs...)
}

func (s *server) caller(ctx context.Context, next func() request) (latencies []time.Duration, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	reader := textproto.NewReader(bufio.NewReaderSize(conn, 16<<10))
	for ctx.Err() == nil {
		r := next()
		if len(r) == 0 {
			return latencies, nil
		}
		start := time.Now()
		if _, err := conn.Write(r); err != nil {
			return latencies, err
		}
		if err := readAnswer(reader); err != nil {
			return latencies, err
		}
		latencies = append(latencies, time.Since(start))
	}
	return latencies, nil
}

// readAnswer reads one answer and returns an error unless it is good.
func readAnswer(r *textproto.Reader) error {
	status, err := r.ReadLineBytes()
	if err != nil {
		return err
	}
	good := bytes.HasPrefix(status, []byte("HTTP/1.1 200"))
	failure := string(status)
	length := -1
	for {
		line, err := r.ReadLineBytes()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		if key, value, ok := bytes.Cut(line, []byte(": ")); ok && bytes.EqualFold(key, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("%s: an answer without a length", failure)
	}
	if good {
		_, err := r.R.Discard(length)
		return err
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r.R, body); err != nil {
		return err
	}
	return fmt.Errorf("%s: %s", failure, body)
}
