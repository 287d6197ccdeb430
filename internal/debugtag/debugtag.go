// Package debugtag says whether the program was built with the tag veloq_debug, under which veloq
// keeps what helps to find mistakes: where tasks were created, who released a buffer.
package debugtag
