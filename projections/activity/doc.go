// Package activity is the searchable copy of who used which key: every activity record and every successful lifecycle
// command, as rows of a ClickHouse table that an auditor's questions are answered from.
//
// The streams of package eventstore are the truth; this is a projection of them that can be thrown away and filled again
// (Log.Rebuild). What it adds is that nothing is in it twice and nothing is missing, whatever is killed at whatever moment:
//
//   - a row is identified by its place in the streams (lineage, stream, sequence, record index), all of it in the sorting key;
//   - what goes into one INSERT is a range of a stream that was fixed by a compare-and-set in the event store before, so a
//     range whose fate is unknown is inserted again as exactly the same block, under the same deduplication token, which
//     ClickHouse drops if it has it;
//   - one node at a time writes a stream (the same compare-and-set says who), and a restart is handled as a takeover from
//     oneself, so there is one way to recover, and it is used at every start.
//
// Keys can be used and records are durable without this package: when ClickHouse is away only questions fail, with
// ErrUnavailable, and it catches up by itself when ClickHouse is back.
//
// The package does not authorize, does not record that somebody read the log, and seals no page tokens.
package activity
