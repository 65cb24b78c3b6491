// Cfg files: syntax, options, --set, and a table of malformed files with what the message must say.
// To add a case: a row in `malformed`.
#include "testing.h"

#include "net/data_options.h"
#include "net/network.h"
#include "net/training_options.h"

#define HEAD "[net]\nbatch=2\nheight=8\nwidth=8\nchannels=3\n"
#define TAIL "[avgpool]\n[connected]\noutput=4\nactivation=linear\n[softmax]\n"

static struct network *build(const char *text, const char *set, struct diagnostics *diagnostics, struct cfg **cfg, struct thread_pool *pool)
{
    struct error error;
    *cfg = cfg_parse("x.cfg", text, strlen(text), diagnostics);
    if (!*cfg) return NULL;
    if (set && !cfg_set(*cfg, set, &error)) {
        diagnostics_add(diagnostics, 0, NULL, "%s", error.message);
        return NULL;
    }
    struct network_request request = {.for_training = true, .seed = 1};
    return network_create(*cfg, &request, pool, diagnostics);
}

struct row {
    const char *text, *message, *message2; // message2 may be NULL
};

static const struct row malformed[] = {
    {"batch=1\n", "x.cfg:1: 'batch=1' stands before the first section", NULL},
    {"[net\n", "x.cfg:1: '[net': expected [section]", NULL},
    {"[net]\nbatch\n", "x.cfg:2: [net] 'batch': expected KEY=VALUE", NULL},
    {"[net]\n=3\n", "a key is missing", NULL},
    {"[net]\nbatch=1\nbatch=2\n", "x.cfg:3: [net] batch is given twice: first in line 2", NULL},
    {"", "[net]", NULL},
    {"[conv]\nfilters=3\n", "missing: a cfg starts with a [net] section", NULL},
    {HEAD, "no layer follows", NULL},
    {HEAD "[convolutinal]\nfilters=4\n" TAIL, "x.cfg:6: [convolutinal] unknown section; did you mean [convolutional]?", NULL},
    {HEAD "[conv]\nfilter=4\n" TAIL, "x.cfg:7: [conv] unknown option filter; did you mean filters?", NULL},
    {HEAD "[conv]\nmantisa=4\n" TAIL, "did you mean mantissa?", NULL},
    {HEAD "[conv]\nfilters=four\n" TAIL, "x.cfg:7: [conv] filters=four: expected an integer from 1 to 65536", NULL},
    {HEAD "[conv]\nfilters=4x\n" TAIL, "filters=4x: expected an integer", NULL},
    {HEAD "[conv]\nfilters=0x10\n" TAIL, "expected an integer", NULL},
    {HEAD "[conv]\nfilters=-1\n" TAIL, "expected an integer from 1", NULL},
    {HEAD "[conv]\nfilters=99999999999999999999\n" TAIL, "expected an integer", NULL},
    {HEAD "[conv]\nfilters=1.5\n" TAIL, "expected an integer", NULL},
    {HEAD "[conv]\nfilters=\n" TAIL, "expected a value", NULL},
    {HEAD "[conv]\nactivation=rely\n" TAIL, "activation=rely: expected one of: linear relu", NULL},
    {HEAD "[conv]\npad=2\n" TAIL, "pad=2: expected 0 or 1", NULL},
    {HEAD "[conv]\nmantissa=8\n" TAIL, "mantissa=8: expected an integer from 0 to 7", NULL},
    {HEAD "[conv]\nexponent=0\nmantissa=0\n" TAIL, "an element without bits", NULL},
    {HEAD "[conv]\ngroup=cn\n" TAIL, "group=cn: expected one of: none n c nc", NULL},
    {HEAD "[conv]\nsize=11\n" TAIL, "does not fit an input of 8x8", NULL},
    {HEAD "[conv]\nfilters=4\ngroups=2\n" TAIL, "not divisible by groups=2", NULL},
    {HEAD "[conv]\nfilters=4\n[shortcut]\nfrom=-3\n" TAIL, "names layer -2, which does not exist", NULL},
    {HEAD "[conv]\nfilters=4\n[shortcut]\nfrom=5\n" TAIL, "names layer 5, which does not exist", NULL},
    {HEAD "[shortcut]\nfrom=-1\n" TAIL, "needs a layer before it", NULL},
    {HEAD "[route]\n" TAIL, "layers is missing", NULL},
    {HEAD "[conv]\nfilters=2\n[route]\nlayers=-1,x\n" TAIL, "expected a list with commas", NULL},
    {HEAD "[conv]\nfilters=2\n[maxpool]\nsize=2\nstride=2\n[route]\nlayers=-1,0\n" TAIL, "do not fit", NULL},
    {HEAD "[maxpool]\nsize=20\npadding=0\n" TAIL, "does not fit", NULL},
    {HEAD "[crop]\ncrop_height=9\ncrop_width=8\n" TAIL, "x.cfg:6: [crop] 9x8 does not fit an input of 8x8", NULL},
    {HEAD "[local]\nsize=9\n" TAIL, "x.cfg:6: [local] size=9 pad=0 does not fit an input of 8x8", NULL},
    {HEAD "[local]\nsize=5\npad=1\n" TAIL, "pad=1 is for size=3", NULL},
    {"[net]\nheight=255\nwidth=255\nmls=0\nchannels=1\n[conv]\nfilters=65536\n[local]\nsize=255\n" TAIL, "a window of 4261478400 numbers", NULL},
    {HEAD "[softmax]\ngroups=5\n", "192 inputs are not divisible by groups=5", NULL},
    {HEAD "[cost]\ntype=wgan\n", "type=wgan: expected one of: sse masked", NULL},
    {HEAD "[conv]\nfilters=2\n", "has no loss to train with", NULL},
    {HEAD "[avgpool]\n[softmax]\n" TAIL, "x.cfg:7: [softmax] a second loss, beside [softmax] of layer 4: expected one", NULL},
    {HEAD "[cost]\n" TAIL, "x.cfg:6: [cost] a second loss", NULL},
    {HEAD "[cost]\n[cost]\n", "x.cfg:6: [cost] a second loss", NULL},
    {HEAD TAIL "[connected]\noutput=3\n", "[connected] behind the loss, [softmax] of layer 2: expected nothing but one [cost]", NULL},
    {HEAD TAIL "[cost]\n[cost]\n", "[cost] behind the loss", NULL},
    {HEAD "[data]\n[data]\nfoo=1\n" TAIL, "x.cfg:7: [data] a second [data] section", NULL},
    {HEAD "[net]\nbatch=3\n" TAIL, "x.cfg:6: [net] a second [net] section", NULL},
    {"[net]\nbatch=3\nsubdivisions=2\n" TAIL, "batch=3 is not divisible by subdivisions=2", NULL},
    {"[net]\nkernel=sse9\n" TAIL, "kernel=sse9: unknown", NULL},
    {"[net]\nlearning_rat=1\nbatsh=3\n" TAIL, "did you mean learning_rate?", "did you mean batch?"},
    {HEAD "[conv]\nfilters=x\n[conv]\nfilter=2\n[foo]\n" TAIL, "filters=x", "[foo] unknown section"},
};

static void test_malformed(void **state)
{
    (void)state;
    struct thread_pool *pool = thread_pool_create(1, NULL);
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        struct diagnostics diagnostics = {.path = "x.cfg"};
        struct cfg *cfg = NULL;
        assert_null(build(malformed[i].text, NULL, &diagnostics, &cfg, pool));
        assert_contains(diagnostics.text, malformed[i].message);
        if (malformed[i].message2) assert_contains(diagnostics.text, malformed[i].message2);
        diagnostics_release(&diagnostics);
        cfg_release(cfg);
    }
    thread_pool_destroy(pool);
}

static void test_syntax(void **state)
{
    (void)state;
    const char text[] = "\xef\xbb\xbf# comment\r\n[net]   ; more\r\n  batch = 4 # four\r\nheight=9\r\n;\r\n\r\n[ data ]\r\nmean= 0.1 , 0.2,0.3\r\npath=a b/c";
    struct diagnostics diagnostics = {.path = "x.cfg"};
    struct cfg *cfg = cfg_parse("x.cfg", text, sizeof text - 1, &diagnostics);
    assert_non_null(cfg);
    assert_int_equal(cfg->section_count, 2);
    assert_string_equal(cfg_find_option(&cfg->sections[0], "batch")->value, "4");
    assert_int_equal(cfg_find_option(&cfg->sections[0], "height")->line, 4);
    struct data_options data = {0};
    assert_true(options_read(data_option_table, cfg_find_section(cfg, "data"), &data, &diagnostics));
    assert_int_equal(data.mean.count, 3);
    assert_true(data.mean.floats[2] == 0.3f);
    assert_string_equal(data.path, "a b/c");
    options_release(data_option_table, &data);
    char *again = cfg_to_text(cfg);
    struct cfg *second = cfg_parse("y.cfg", again, strlen(again), &diagnostics);
    assert_non_null(second);
    assert_string_equal(cfg_find_option(&second->sections[1], "path")->value, "a b/c");
    free(again);
    cfg_release(cfg);
    cfg_release(second);
    assert_null(cfg_parse("z.cfg", "[net]\nba\0tch=1\n", 15, &diagnostics));
    assert_contains(diagnostics.text, "NUL");
    diagnostics_release(&diagnostics);
}

static void test_set(void **state)
{
    (void)state;
    struct thread_pool *pool = thread_pool_create(1, NULL);
    static const char text[] = HEAD "[conv]\nfilters=16\nsize=3\nmls=0\n[conv]\nfilters=16\nsize=3\n" TAIL;
    static const struct { const char *set, *settings; } good[] = {
        {"mantissa=4", "MLS <2,4> nc 16"}, {"mls=0", "fp32"}, {"1.mantissa=2", "MLS <2,2> nc 16"},
        {"conv.group_size=1", "MLS <2,1> nc 1"}, {"convolutional.exponent=0", "<0,1>"}, {"activation_mantissa=2", "w<2,1> a<2,2> e<2,1>"},
        {"1.mls=0", "fp32"}, {"mantissa=7", "simulated"}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct diagnostics diagnostics = {.path = "x.cfg"};
        struct cfg *cfg;
        struct network *network = build(text, good[i].set, &diagnostics, &cfg, pool);
        if (!network) fail_msg("%s: %s", good[i].set, diagnostics.text);
        char settings[160];
        network->layers[1]->type->describe(network->layers[1], settings, sizeof settings);
        assert_contains(settings, good[i].settings);
        network_destroy(network);
        cfg_release(cfg);
    }
    static const struct { const char *set, *message; } bad[] = {
        {"mantisa=4", "did you mean mantissa?"}, {"mantissa", "expected KEY=VALUE"}, {"9.size=1", "layers 0 to 4"},
        {"maxpool.size=1", "no section [maxpool]"}, {"mantissa=9", "x.cfg: --set: [net] mantissa=9: expected an integer from 0 to 7"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct diagnostics diagnostics = {.path = "x.cfg"};
        struct cfg *cfg;
        assert_null(build(text, bad[i].set, &diagnostics, &cfg, pool));
        assert_contains(diagnostics.text, bad[i].message);
        diagnostics_release(&diagnostics);
        cfg_release(cfg);
    }
    thread_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_malformed), cmocka_unit_test(test_syntax), cmocka_unit_test(test_set)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
