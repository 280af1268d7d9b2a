# All BPF programs, maps and links: KIND ID a line. Asks as `bpftool` does, with bpf(BPF_*_GET_NEXT_ID).
use strict;
use warnings;
use Errno 'ENOENT';

for (['prog', 11], ['map', 12], ['link', 31]) {
    my ($kind, $command) = @$_;
    my $id = 0;
    while (1) {
        my $attributes = pack('L3', $id, 0, 0); # start_id, next_id, open_flags
        last if syscall(321, $command, $attributes, 12) < 0;
        $id = (unpack('L3', $attributes))[1];
        print "$kind $id\n";
    }
    print "$kind $!\n" if $! != ENOENT;
}
