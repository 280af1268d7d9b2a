# Counts the client's events: what they say besides the time, and how often. Times have to be since
# the last call, in order.
use strict;
use warnings;

sub iso {
    my @t = gmtime shift;
    return sprintf('%04d-%02d-%02dT%02d:%02d:%02d', $t[5] + 1900, $t[4] + 1, @t[3, 2, 1, 0]);
}

my ($stamp, $now) = ('/tmp/stamp', time);
my $since = 0;
if (open(my $file, '<', $stamp)) { $since = <$file> }
my ($earliest, $end, $count) = (iso($since), iso($now + 1), {});
open(my $events, '+<', '/tmp/events.json') or die "events: $!";
while (<$events>) {
    chomp;
    my $time = s/^\{"ts":"([^"]*)",/{/ ? $1 : 'no time';
    my $form = $time =~ /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$/;
    print "$time: not from $earliest to $end\n" unless $form && $time ge $earliest && $time lt $end;
    $earliest = $time;
    $count->{$_}++;
}
# The client appends to it.
truncate($events, 0);
print "$count->{$_} $_\n" for sort keys %$count;
open(my $file, '>', $stamp) or die "stamp: $!";
print $file $now;
