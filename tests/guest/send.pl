# Sends frames as they are: perl send.pl INTERFACE FILE…
# A file is frames one after the other, each behind its length in bytes (16 bits, big-endian).
use strict;
use warnings;
use Socket;

my $interface = shift;
socket(my $socket, 17, SOCK_RAW, 0) or die "socket: $!"; # AF_PACKET; 0: nothing is received
my $request = pack('a16 x24', $interface);
ioctl($socket, 0x8933, $request) or die "$interface: $!"; # SIOCGIFINDEX
my $index = unpack('x16 i', $request);
# struct sockaddr_ll: family, protocol, index, type of hardware, type of packet, address
my $address = pack('S n i S C C a8', 17, 3, $index, 0, 0, 0, '');
my $sent = 0;
for my $file (@ARGV) {
    open(my $frames, '<:raw', $file) or die "$file: $!";
    while (read($frames, my $length, 2) == 2) {
        read($frames, my $frame, unpack('n', $length)) or die "$file: $!";
        send($socket, $frame, 0, $address) == length($frame) or die "$file: $!";
        $sent++;
    }
}
print "$interface $sent\n";
