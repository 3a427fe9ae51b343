// Package engine runs ClickHouse inside a site that has no ClickHouse server: the libchdb library, hosted by a child
// process of our own binary and spoken to by clickhouse-go over ClickHouse's HTTP protocol on a unix socket. The activity
// log is therefore written and read by one code path, whatever stands behind it.
//
// The engine is a child, never a part, of the server: half a gigabyte of C++ does not share an address space with key
// material, its crash or its hunger for memory ends it alone, and it is started again with its data as it was. The child
// has an empty environment, its own folder as working directory, and inherits nothing but its listening socket.
//
// Start and Process are the parent's side; Main is the child's. The child serves what clickhouse-go asks for and no more:
// no users, sessions, external tables, query ids, progress or compression (a unix socket gains nothing from it).
package engine
