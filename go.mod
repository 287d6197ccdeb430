module github.com/veloq/veloq

go 1.26
