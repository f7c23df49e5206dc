// Package policies holds the policies and evaluators that Flyball ships with. They are the defaults of every
// installation: a file of the same name in the policy directory, or in that of the evaluators, replaces one of them.
package policies

import "embed"

// Files are the shipped policies and their tests.
//
//go:embed *.yaml
var Files embed.FS

// Evaluators are the shipped evaluators and their tests, in the folder evaluators.
//
//go:embed evaluators/*.yaml
var Evaluators embed.FS
