# A ruleset of 100,000 rules.
use strict;
use warnings;

print "table ip t {\n chain sub {\n";
for my $n (1 .. 100_000) {
    my @address = (10, $n * 7 % 251, $n / 256 % 256, $n % 256);
    printf "  ip saddr %d.%d.%d.%d tcp dport %d counter drop comment \"customer %d\"\n",
        @address, 1024 + $n * 31 % 60_000, $n % 997;
}
print " }\n chain in {\n  type filter hook input priority 0; policy accept;\n  jump sub\n }\n}\n";
