# What packets cost: perl cost.pl FILE COUNT [PID]
# Sends the first frame of a file so often from b0, and waits until the process PID, which is told of
# packets, has nothing left to do. Prints the nanoseconds that sending took, with all that the kernel
# and others did meanwhile, and those that PID ran afterwards. There is one processor, so nothing is
# counted twice; under QEMU's `-icount shift=0` a nanosecond is an instruction.
use strict;
use warnings;
use Socket;

my ($file, $count, $pid) = @ARGV;
sub now {
    my $time = pack('q2', 0, 0);
    syscall(228, 1, $time) == 0 or die "clock_gettime: $!"; # CLOCK_MONOTONIC
    my ($seconds, $nanoseconds) = unpack('q2', $time);
    return $seconds * 1_000_000_000 + $nanoseconds;
}
# The time that all threads of PID have run.
sub ran {
    my $sum = 0;
    for my $path (glob "/proc/$pid/task/*/schedstat") {
        open(my $stat, '<', $path) or next;
        $sum += (split ' ', <$stat>)[0];
    }
    return $sum;
}

open(my $frames, '<:raw', $file) or die "$file: $!";
read($frames, my $length, 2) == 2 or die $file;
read($frames, my $frame, unpack('n', $length)) or die $file;
socket(my $socket, 17, SOCK_RAW, 0) or die "socket: $!"; # AF_PACKET
my $request = pack('a16 x24', 'b0');
ioctl($socket, 0x8933, $request) or die "b0: $!"; # SIOCGIFINDEX
my $address = pack('S n i S C C a8', 17, 3, unpack('x16 i', $request), 0, 0, 0, '');
my $begun = now();
for (1 .. $count) {
    send($socket, $frame, 0, $address) or die "send: $!";
}
my $sent = now();
my $after = 0;
if ($pid) {
    # Whoever has nothing left to do still looks whether there is something, now and then.
    my $idle = 3_000_000;
    my $first = ran();
    my ($last, $ran) = ($first - $idle, $first);
    while ($ran - $last >= $idle) {
        select(undef, undef, undef, 1.5); # longer than any observer sleeps
        ($last, $ran) = ($ran, ran());
    }
    $after = $last - $first;
}
print $sent - $begun, " $after\n";
