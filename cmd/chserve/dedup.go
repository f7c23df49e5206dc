package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A table remembers the tokens of its inserts in deduplication_logs/, text files of lines
//
//	operation (1 added, 2 dropped) TAB part TAB block id
//
// The engine writes the line of a part before it gives the part its final name. Killed in between, it knows
// the token of a block that it does not have, and the retry that would have brought the block is taken for
// a duplicate: rows are lost that nobody acknowledged but that somebody is right to send again. So the lines
// without a part are taken out while the engine is not running. (Replicated tables do both in one
// transaction and have no such gap.)

// forgetLostParts repairs the deduplication logs of every table under store, a directory of the engine.
func forgetLostParts(store string, log *slog.Logger) error {
	tables, err := filepath.Glob(filepath.Join(globQuote(store), "store", "*", "*", "deduplication_logs"))
	if err != nil {
		return fmt.Errorf("looking for deduplication logs: %w", err)
	}
	for _, dir := range tables {
		lost, err := forgetLostPartsOf(dir)
		if err != nil {
			return fmt.Errorf("repairing the deduplication log in %s: %w", dir, err)
		}
		if lost > 0 {
			log.Info("forgot tokens of parts that are not there, so that a retry brings them", "table", filepath.Base(filepath.Dir(dir)), "parts", lost)
		}
	}
	return nil
}

// forgetLostPartsOf repairs the logs of one table and returns how many lines it took out.
func forgetLostPartsOf(dir string) (lost int, err error) {
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil {
		return 0, err
	}
	var parts []partName
	for _, e := range entries {
		if p, ok := parsePart(e.Name()); ok && e.IsDir() {
			parts = append(parts, p)
		}
	}
	files, err := filepath.Glob(filepath.Join(globQuote(dir), "deduplication_log_*.txt"))
	if err != nil {
		return 0, err
	}
	dropped := map[string]bool{} // parts whose token has been forgotten in order
	texts := make([][]byte, len(files))
	for i, file := range files {
		if texts[i], err = os.ReadFile(file); err != nil {
			return 0, err
		}
		for line := range bytes.Lines(texts[i]) {
			if op, part := logLine(line); op == "2" {
				dropped[part] = true
			}
		}
	}
	for i, file := range files {
		kept := make([]byte, 0, len(texts[i]))
		for line := range bytes.Lines(texts[i]) {
			op, name := logLine(line)
			p, known := parsePart(name)
			switch {
			case op == "" || !bytes.HasSuffix(line, []byte("\n")): // torn by a crash of the machine
				lost++
			case op == "1" && known && !dropped[name] && !slices.ContainsFunc(parts, p.within):
				lost++
			default:
				kept = append(kept, line...)
			}
		}
		if len(kept) < len(texts[i]) {
			if err := replaceFile(file, kept); err != nil {
				return lost, err
			}
		}
	}
	return lost, nil
}

// logLine is the operation and the part of a line; both are empty when it is not whole.
func logLine(line []byte) (op, part string) {
	fields := strings.Split(strings.TrimSuffix(string(line), "\n"), "\t")
	if len(fields) != 3 {
		return "", ""
	}
	return fields[0], fields[1]
}

// partName is what the name of a part says: PARTITION_MIN_MAX_LEVEL, with the block numbers that it holds,
// and _MUTATION where it was mutated.
type partName struct {
	partition string
	from, to  uint64
}

func parsePart(name string) (p partName, ok bool) {
	fields := strings.Split(name, "_")
	if len(fields) != 4 && len(fields) != 5 {
		return p, false
	}
	numbers := make([]uint64, len(fields)-1)
	for i, field := range fields[1:] {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return p, false
		}
		numbers[i] = n
	}
	return partName{fields[0], numbers[0], numbers[1]}, true
}

// within reports whether another part holds all blocks of p. Block numbers are given out and parts named
// under one lock, so a lost block is never within a part that was merged later and before the crash.
func (p partName) within(other partName) bool {
	return other.partition == p.partition && other.from <= p.from && p.to <= other.to
}

// replaceFile replaces a file in one step that survives a crash.
func replaceFile(path string, content []byte) (err error) {
	file, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, removeIfThere(path+".tmp"))
	}
	return os.Rename(path+".tmp", path)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// globQuote makes filepath.Glob take the characters of path as they are.
func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}
