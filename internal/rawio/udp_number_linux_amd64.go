package rawio

// The system call's number, which package syscall lacks here.
const sysSENDMMSG = 307
