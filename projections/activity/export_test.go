package activity

import "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

// Conn lets tests look at the tables themselves.
func (l *Log) Conn() driver.Conn { return l.conn }
