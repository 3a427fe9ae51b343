package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// TestFresh asks a log that is behind by some time.
func TestFresh(t *testing.T) {
	for name, tt := range map[string]struct {
		fresh  bool
		behind time.Duration
		asked  int
		remark bool
	}{
		"any answer will do": {false, time.Hour, 1, false},
		"up to date":         {true, 0, 1, false},
		"behind by a moment": {true, 800 * time.Millisecond, 2, false},
		"behind by more":     {true, 2500 * time.Millisecond, 4, false},
		"behind by far":      {true, time.Hour, 17, true},
		"ahead of our clock": {true, -time.Hour, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var remarks bytes.Buffer
				c := &client{remark: func(format string, args ...any) { _, _ = fmt.Fprintf(&remarks, format, args...) }}
				asked := 0
				_, err := ask(t.Context(), c, freshFlags{Fresh: tt.fresh}, func() (*kmsv1.LatestUseInfo, error) {
					asked++
					return &kmsv1.LatestUseInfo{AsOfTime: timestamppb.New(time.Now().Add(-tt.behind))}, nil
				})
				if err != nil || asked != tt.asked || strings.Contains(remarks.String(), "may be missing") != tt.remark {
					t.Errorf("asked %d times, error %v, remarked %q; want %d times, remark = %t", asked, err, remarks.String(), tt.asked, tt.remark)
				}
			})
		})
	}
}

func TestFreshInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := ask(ctx, &client{}, freshFlags{Fresh: true}, func() (*kmsv1.LatestUseInfo, error) {
		cancel()
		return &kmsv1.LatestUseInfo{}, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want it to be interrupted", err)
	}
}

// TestPages walks over 25 records with pages of what was asked for.
func TestPages(t *testing.T) {
	for name, tt := range map[string]struct {
		limit int
		sizes []int32
	}{
		"all":               {0, []int32{1000, 1000, 1000}},
		"some of a page":    {5, []int32{5}},
		"more than a page":  {15, []int32{15, 5}},
		"more than all":     {1500, []int32{1000, 1000, 1000}},
		"exactly two pages": {20, []int32{20, 10}},
	} {
		t.Run(name, func(t *testing.T) {
			var sizes []int32
			left := 25
			err := pageFlags{}.pages(tt.limit, func(size int32, token string) (int, string, error) {
				if wantToken := fmt.Sprint(left); token != wantToken && len(sizes) > 0 {
					t.Errorf("token %q, want %q", token, wantToken)
				}
				sizes = append(sizes, size)
				n := min(left, int(size), 10) // the server gives no more than ten
				left -= n
				if left == 0 {
					return n, "", nil
				}
				return n, fmt.Sprint(left), nil
			})
			if err != nil || fmt.Sprint(sizes) != fmt.Sprint(tt.sizes) {
				t.Errorf("asked for pages of %v, %v, want %v", sizes, err, tt.sizes)
			}
		})
	}
	if err := (pageFlags{Skip: -1}).pages(0, nil); err == nil {
		t.Error("a negative skip was taken")
	}
}
