//go:build veloq_debug

package debugtag

// Enabled reports whether the build tag veloq_debug is set.
const Enabled = true
