// Package policies holds the policies that Flyball ships with. They are the defaults of every
// installation: a file of the same name in the policy directory replaces one of them.
package policies

import "embed"

// Files are the shipped policies and their tests.
//
//go:embed *.yaml
var Files embed.FS
