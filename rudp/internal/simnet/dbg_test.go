package simnet
import ("testing";"time";"os";"fmt";"math/rand/v2";"strconv"
"github.com/veloq/veloq/rudp/internal/core";"github.com/veloq/veloq/rudp/internal/wire")
func TestDbg(t *testing.T) {
	s, _ := strconv.ParseUint(os.Getenv("DBG"),10,64)
	if s == 0 { t.Skip() }
	dbg = true
	r := rand.New(rand.NewPCG(s, 99))
	cfg := Config{Seed: s, Up: randomLink(r), Down: randomLink(r), Client: randomConfig(r), Server: randomConfig(r)}
	if r.IntN(2) == 0 { cfg.Down = cfg.Up }
	fmt.Printf("up %+v\ndown %+v\nC %+v\n", cfg.Up, cfg.Down, cfg.Client)
	sc, err := runSeed(s, 0)
	fmt.Println(err); fmt.Println(sc, time.Duration(sc.w.Now)-time.Hour)
	fmt.Println(sc.c.Conn.Debug()); if sc.s != nil { fmt.Println(sc.s.Conn.Debug()) }
	fmt.Printf("%+v\n", sc.w.Server.Endpoint.Stats())
	_ = core.CIDLen; _ = wire.Initial
}
