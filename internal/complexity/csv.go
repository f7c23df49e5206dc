package complexity

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/flyball-dev/flyball/internal/kpi"
)

// ReadTimes reads rows of task,minutes[,tenant], or in the order of a header of these names, as one record a task in the
// order of tenants and tasks. It complains of bad rows by their line, and leaves them out.
func ReadTimes(file io.Reader, complain func(line int, format string, args ...any)) ([]Record, error) {
	rows := csv.NewReader(file)
	rows.FieldsPerRecord, rows.ReuseRecord, rows.TrimLeadingSpace = -1, true, true
	columns := map[string]int{"task": 0, "minutes": 1, "tenant": 2}
	place := map[[2]string]int{}
	var tasks []Record
	for first := true; ; first = false {
		row, err := rows.Read()
		var broken *csv.ParseError
		switch {
		case errors.Is(err, io.EOF):
			slices.SortFunc(tasks, func(a, b Record) int {
				return slices.Compare([]string{a.TenantID, a.Task}, []string{b.TenantID, b.Task})
			})
			return tasks, nil
		case errors.As(err, &broken):
			complain(broken.StartLine, "%v", broken.Err)
			continue
		case err != nil:
			return nil, fmt.Errorf("reading it: %w", err)
		}
		if first {
			row[0] = strings.TrimPrefix(row[0], "\ufeff")
			if header, ok, err := timesHeader(row); err != nil {
				return nil, err
			} else if ok {
				columns = header
				continue
			}
		}
		line, _ := rows.FieldPos(0)
		task, err := timedRow(row, columns)
		if err != nil {
			complain(line, "%v", err)
			continue
		}
		key := [2]string{task.TenantID, task.Task}
		if i, ok := place[key]; ok {
			tasks[i].Minutes = append(tasks[i].Minutes, task.Minutes...)
		} else {
			place[key] = len(tasks)
			tasks = append(tasks, task)
		}
	}
}

// timesHeader finds the columns by their names; ok is false where the row is no header.
func timesHeader(row []string) (columns map[string]int, ok bool, err error) {
	columns = map[string]int{}
	for i, name := range row {
		columns[strings.ToLower(strings.TrimSpace(name))] = i
	}
	_, hasTask := columns["task"]
	_, hasMinutes := columns["minutes"]
	if !hasTask || !hasMinutes {
		return nil, false, nil
	}
	for name := range columns {
		if name != "task" && name != "minutes" && name != "tenant" {
			return nil, false, fmt.Errorf("the header has a column %q: want task,minutes[,tenant]", name)
		}
	}
	if len(columns) != len(row) {
		return nil, false, errors.New("the header has a column twice: want task,minutes[,tenant]")
	}
	return columns, true, nil
}

// timedRow reads one row.
func timedRow(row []string, columns map[string]int) (Record, error) {
	if len(row) < 2 || len(row) > 3 {
		return Record{}, fmt.Errorf("has %d columns: want task,minutes[,tenant]", len(row))
	}
	field := func(name string) string {
		if i, ok := columns[name]; ok && i < len(row) {
			return strings.TrimSpace(row[i])
		}
		return ""
	}
	task := Record{TenantID: field("tenant"), Task: field("task")}
	switch {
	case task.Task == "":
		return task, errors.New("the task is missing")
	case !utf8.ValidString(task.Task + task.TenantID):
		return task, errors.New("is not valid UTF-8")
	}
	minutes, err := strconv.ParseFloat(field("minutes"), 64)
	if err != nil {
		return task, fmt.Errorf("minutes %q is not a number", field("minutes"))
	}
	task.Minutes = []float64{minutes}
	if _, err := kpi.MedianMinutes(task.Minutes); err != nil {
		return task, fmt.Errorf("minutes must be between %g and %d (%g)", kpi.MinMinutes, kpi.MaxMinutes, minutes)
	}
	return task, nil
}
