package engine

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// database is what the HTTP interface calls "default". The engine's own default database also resolves the names of
// files as tables, so an empty one takes its place at every start, and it is never used.
const database = "main"

// pool is a fixed number of connections to the engine; each runs one statement at a time.
type pool struct {
	lib  *chdb
	args []string
	free chan *session

	adminMu sync.Mutex
	admin   *conn // ends the statements of the others; always open, so that the data folder stays so
}

// session is a connection of the pool together with the state that statements left in it.
type session struct {
	*conn
	tag      string // the log_comment of all its statements, by which they are found when they must end
	database string
	settings map[string]string // those that differ from the defaults
}

// openPool opens the data folder and n connections to it.
func openPool(lib *chdb, n int, args ...string) (*pool, error) {
	p := &pool{lib: lib, args: args, free: make(chan *session, n)}
	admin, err := lib.open(args...)
	if err != nil {
		return nil, err
	}
	p.admin = admin
	for _, statement := range []string{
		"CREATE DATABASE IF NOT EXISTS " + database,
		"DROP DATABASE IF EXISTS default",
		"CREATE DATABASE default ENGINE = Memory", // an empty one, for a connection can't begin without
	} {
		if _, err := admin.query(statement, "TabSeparated", nil); err != nil {
			return nil, fmt.Errorf("preparing the databases: %w", err)
		}
	}
	for i := range n {
		s, err := p.openSession(fmt.Sprintf("kms-%d", i))
		if err != nil {
			return nil, err
		}
		p.free <- s
	}
	return p, nil
}

func (p *pool) openSession(tag string) (*session, error) {
	c, err := p.lib.open(append(slices.Clone(p.args), "--log_comment="+tag)...)
	if err != nil {
		return nil, err
	}
	s := &session{conn: c, tag: tag, settings: map[string]string{}}
	if err := s.use(database); err != nil {
		c.close()
		return nil, err
	}
	return s, nil
}

// renew gives s a fresh connection after its state has become unknown.
func (p *pool) renew(s *session) error {
	fresh, err := p.openSession(s.tag)
	if err != nil {
		return fmt.Errorf("opening a connection again: %w", err)
	}
	s.close()
	*s = *fresh
	return nil
}

// kill ends the statement that s is running, if any.
func (p *pool) kill(s *session) error {
	p.adminMu.Lock()
	defer p.adminMu.Unlock()
	_, err := p.admin.query("KILL QUERY WHERE Settings['log_comment'] = "+quote(s.tag)+" ASYNC", "TabSeparated", nil)
	return err
}

// close waits for running statements and closes every connection.
func (p *pool) close() {
	for range cap(p.free) {
		(<-p.free).close()
	}
	p.adminMu.Lock()
	defer p.adminMu.Unlock()
	p.admin.close()
}

// notSettings are the parameters of a request's URL that do not name a setting of the engine, or one that is ours.
var notSettings = map[string]bool{
	"database": true, "query": true, "default_format": true, "client_protocol_version": true, "compress": true,
	"decompress": true, "network_compression_method": true, "query_id": true, "quota_key": true, "wait_end_of_query": true,
	"session_id": true, "session_check": true, "session_timeout": true, "user": true, "password": true, "role": true,
	"buffer_size": true, "http_method": true, "log_comment": true,
}

var settingName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// requestSettings are the settings a request asks for: every parameter of its URL that is not the protocol's own.
func requestSettings(q url.Values) map[string]string {
	settings := make(map[string]string)
	for name, values := range q {
		if !notSettings[name] && !strings.HasPrefix(name, "param_") && settingName.MatchString(name) {
			settings[name] = values[0]
		}
	}
	return settings
}

// use makes db the database of unqualified names.
func (s *session) use(db string) error {
	if db == "" || db == "default" {
		db = database
	}
	if db == s.database {
		return nil
	}
	if _, err := s.query("USE "+quoteIdentifier(db), "TabSeparated", nil); err != nil {
		return err
	}
	s.database = db
	return nil
}

// set gives the session exactly the wanted settings, others their defaults, in as many statements as differ: mostly none.
// After an error the session's settings are unknown.
func (s *session) set(want map[string]string) error {
	var changes []string
	for name := range s.settings {
		if _, ok := want[name]; !ok {
			changes = append(changes, name+" = DEFAULT")
		}
	}
	for name, value := range want {
		if old, ok := s.settings[name]; !ok || old != value {
			changes = append(changes, name+" = "+quote(value))
		}
	}
	if len(changes) == 0 {
		return nil
	}
	if _, err := s.query("SET "+strings.Join(changes, ", "), "TabSeparated", nil); err != nil {
		return err
	}
	s.settings = want
	return nil
}

func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

func quoteIdentifier(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(s) + "`"
}
