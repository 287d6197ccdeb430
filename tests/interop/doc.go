// Package interop holds tests that run well-known libraries, unmodified, over veloq's connections:
// at both ends, and at each end against package net's. It is a module of its own, so that those
// libraries are nobody's dependency.
package interop
