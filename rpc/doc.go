// Package rpc is the edge of the service: one HTTP handler that speaks gRPC, gRPC-Web, Connect and REST, turns requests
// into commands and queries, and turns their answers and refusals into what each protocol calls for. It decides nothing
// about keys: rules are in domain, permissions and records in commands. What it refuses by itself, because a request
// makes no sense, it hands to commands to be recorded before it answers.
package rpc
