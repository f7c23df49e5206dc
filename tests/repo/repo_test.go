// Package repo checks the repository itself: who imports whom, and that what is written down beside the
// code (linter rules, deployment files, the API's description, pinned tools) still matches it.
package repo

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// root is the checkout, from this package's folder.
const root = "../.."

const module = "github.com/flyball-dev/flyball"

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	return string(text)
}

// readYAML decodes a file of the repository into a value; keys that the value lacks are ignored.
func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	require.NoError(t, yaml.Unmarshal([]byte(read(t, path)), into), path)
}
