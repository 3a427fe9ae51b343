package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// formatFlags say how an answer is shown.
type formatFlags struct {
	Output string `short:"o" env:"KMS_OUTPUT" enum:"table,json" default:"table" placeholder:"FORMAT" help:"Show the answer as a table, or as json: the server's answer as it is (table, $$${env})."`
}

// print shows the answer m: as JSON, or by the rows that table adds.
func (s *session) print(f formatFlags, m proto.Message, table func(*rows)) error {
	if f.Output == "json" {
		return printJSON(s.out, m)
	}
	r := &rows{now: time.Now()}
	table(r)
	return r.print(s.out)
}

// printJSON writes m with two spaces of indentation, always the same way: protojson alone varies its spaces on purpose.
func printJSON(w io.Writer, m proto.Message) error {
	b, err := protojson.Marshal(m)
	if err != nil {
		return fmt.Errorf("showing the answer: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return fmt.Errorf("showing the answer: %w", err)
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// rows collects a table.
type rows struct {
	now   time.Time
	lines [][]string
}

func (r *rows) add(cells ...string) { r.lines = append(r.lines, cells) }

// field adds a row of a description. An empty value is left out.
func (r *rows) field(name, value string) {
	if value != "" {
		r.add(name+":", value)
	}
}

// print writes the rows with aligned columns. Whatever is not printable is escaped: names, memos and user agents are
// chosen by others, and must not steer the terminal of who reads them.
func (r *rows) print(w io.Writer) error {
	var widths []int
	for _, cells := range r.lines {
		for i, c := range cells {
			cells[i] = printable(c)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cells[i]))
		}
	}
	var out, line strings.Builder
	for _, cells := range r.lines {
		line.Reset()
		for i, c := range cells {
			line.WriteString(c)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+2))
		}
		out.WriteString(strings.TrimRight(line.String(), " "))
		out.WriteByte('\n')
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// printable escapes control characters, and others that don't show.
func printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		if unprintable(c) {
			quoted := strconv.QuoteRuneToASCII(c)
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

func unprintable(c rune) bool { return !unicode.IsPrint(c) }

// when shows a time in UTC, to the second.
func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

// exactly shows a time in UTC, to the millisecond.
func exactly(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format("2006-01-02T15:04:05.000Z")
}

// lastPart is what follows the last slash of a resource name.
func lastPart(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// number shows n, and nothing for 0.
func number[N int32 | int64 | uint32 | uint64](n N) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// yes shows a flag that is set.
func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}
