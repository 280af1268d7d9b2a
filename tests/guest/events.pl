# Counts the events in the trace: name, handle and chain of every kind, and how many of it.
use strict;
use warnings;

open(my $trace, '<', '/sys/kernel/tracing/trace') or die "trace: $!";
my %count;
while (<$trace>) {
    print "$1 of $2 entries\n" if m{^# entries-in-buffer/entries-written: (\d+)/(\d+)} && $1 != $2;
    next if /^#/ || !/ (\w+_drop_\d+): /;
    my $event = $1;
    my $handle = / handle=(\d+)/ ? $1 : '-';
    my $chain = / chain_name="([^"]*)"/ ? $1 : '-';
    $count{"$event $handle $chain"}++;
}
print "$_ $count{$_}\n" for sort keys %count;
