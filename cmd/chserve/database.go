package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/flyball-dev/flyball/cmd/chserve/chdb"
)

// setting is one query setting in text form.
type setting struct{ name, value string }

// database is the running engine: what every request shares.
type database struct {
	path string
	log  *slog.Logger
	// keeper is a connection that stays open, because closing the last one stops the engine.
	keeper   *chdb.Conn
	version  string
	timezone string
}

// openDatabase starts the engine on the data path with a configuration file. The library must be loaded.
func openDatabase(path, configFile string, log *slog.Logger) (*database, error) {
	db := &database{path: path, log: log}
	var err error
	if db.keeper, err = chdb.Connect("--path="+path, "--config-file="+configFile, "--log_comment="+newMarker(self)); err != nil {
		return nil, fmt.Errorf("starting the engine on %s: %w", path, err)
	}
	about, err := db.keeper.Query("SELECT version(), timezone()", "TSVRaw", nil)
	if err != nil {
		db.keeper.Close()
		return nil, fmt.Errorf("reading the engine's version: %w", err)
	}
	db.version, db.timezone, _ = strings.Cut(strings.TrimSpace(string(about.Data)), "\t")
	return db, nil
}

// self is the user as whom chserve itself asks the engine.
var self = user{Admin: true}

// close stops the engine. No request may be running.
func (db *database) close() { db.keeper.Close() }

// connect opens a connection for a statement of u. The marker, made for u, goes into log_comment, where the
// row filters and kill find it.
func (db *database) connect(u user, marker string, settings []setting, currentDatabase string) (*chdb.Conn, error) {
	args := []string{"--path=" + db.path, "--log_comment=" + marker}
	for _, s := range settings {
		args = append(args, "--"+s.name+"="+s.value)
	}
	if !u.Admin {
		for _, s := range readerSettings {
			args = append(args, "--"+s.name+"="+s.value)
		}
		args = append(args, "--readonly=1")
	}
	conn, err := chdb.Connect(args...)
	if err != nil {
		return nil, db.explainRefusal(settings, err)
	}
	if currentDatabase != "" && currentDatabase != "default" {
		if _, err := conn.Query("USE "+quoteIdentifier(currentDatabase), "Null", nil); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// explainRefusal finds the setting for which a connection was refused: the library itself gives no
// reason, but the same value in a SET statement gets a proper exception.
func (db *database) explainRefusal(settings []setting, refusal error) error {
	conn, err := chdb.Connect("--path=" + db.path)
	if err != nil {
		return refusal
	}
	defer conn.Close()
	for _, s := range settings {
		if _, err := conn.Query("SET "+quoteIdentifier(s.name)+" = "+quoteString(s.value), "Null", nil); err != nil {
			return err
		}
	}
	return refusal
}

// kill asks the engine to stop the statement whose connection has the marker. It returns before the
// statement has stopped; a statement that the engine has not registered yet is missed.
func (db *database) kill(marker string) {
	conn, err := db.connect(self, newMarker(self), nil, "")
	if err != nil {
		db.log.Error("cannot cancel a statement", "error", err)
		return
	}
	defer conn.Close()
	if _, err := conn.Query("KILL QUERY WHERE Settings['log_comment'] = "+quoteString(marker)+" ASYNC", "Null", nil); err != nil {
		db.log.Error("cannot cancel a statement", "error", err)
	}
}

// quoteIdentifier and quoteString write names and texts as ClickHouse literals.
func quoteIdentifier(name string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(name) + "`"
}

func quoteString(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}
