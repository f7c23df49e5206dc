// Package kpi breaks the rules of a pure package: `make lint` checks that the linter says so.
package kpi

import (
	"os"

	"go.yaml.in/yaml/v3"
)

// Read does I/O.
func Read() (value any, err error) {
	text, err := os.ReadFile("kpi.yaml")
	if err == nil {
		err = yaml.Unmarshal(text, &value)
	}
	return value, err
}
