/* Drives the original Darknet (https://github.com/pjreddie/darknet), for scripts/compare-darknet:
 *
 *   darknet_reference make CFG WEIGHTS SEED         random weights, biases, scales; running statistics near those of the data, some
 *                                                   variances small
 *   darknet_reference picture CFG PICTURE OUT       the picture in the network's size, OUT.png
 *   darknet_reference run CFG WEIGHTS PICTURE OUT   class probabilities as fp32; with a tree those of the leaves
 *   darknet_reference shapes CFG                    channels, height and width of each layer's output */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "darknet.h"
#include "network.h"
#include "parser.h"
#include "tree.h"
#include "utils.h"

/* Without a GPU the original lacks memory that its [batchnorm] writes to. */
static void complete_batchnorm(network *net)
{
    for (int i = 0; i < net->n; i++) {
        layer *l = &net->layers[i];
        if (l->type != BATCHNORM) continue;
        l->x = calloc(l->outputs * l->batch, sizeof(float));
        l->x_norm = calloc(l->outputs * l->batch, sizeof(float));
    }
}

/* Statistics of one batch of noise in training mode, moved a little, so that no layer's output explodes or vanishes. */
static void randomize(network *net)
{
    for (int i = 0; i < net->n; i++) {
        layer *l = &net->layers[i];
        int count = l->type == CONNECTED ? l->outputs : l->type == LOCAL ? l->outputs : l->n;
        if (l->type == CONVOLUTIONAL || l->type == CONNECTED || l->type == LOCAL)
            for (int k = 0; k < count; k++) l->biases[k] = .2f * rand_normal();
        int places = l->out_w * l->out_h; /* of which Darknet initializes one */
        for (int k = 0; l->type == LOCAL && k < l->size * l->size * l->c * l->n * places; k++) l->weights[k] = .3f * rand_normal();
        for (int k = 0; l->scales && k < (l->type == BATCHNORM ? l->c : count); k++) l->scales[k] = rand_uniform(.5, 1.5);
    }
    for (int i = 0; i < net->inputs * net->batch; i++) net->input[i] = rand_uniform(0, 1);
    net->train = 1;
    forward_network(net);
    for (int i = 0; i < net->n; i++) {
        layer *l = &net->layers[i];
        int count = l->type == CONNECTED ? l->outputs : l->type == BATCHNORM ? l->c : l->n;
        for (int k = 0; l->rolling_mean && k < count; k++) { /* they are .01 of the batch's after one step */
            l->rolling_mean[k] *= 100 * rand_uniform(.9, 1.1);
            l->rolling_variance[k] *= 100 * rand_uniform(.8, 1.25);
            if (k % 4) continue; /* where epsilon matters */
            l->scales[k] *= sqrt(2e-5 / l->rolling_variance[k]);
            l->rolling_variance[k] = 2e-5;
        }
    }
    *net->seen = 123456789;
}

static void run(network *net, char *picture, const char *out)
{
    image im = load_image(picture, 0, 0, net->c);
    FILE *file = fopen(out, "wb");
    set_batch_network(net, 1);
    if (im.w != net->w || im.h != net->h || !file) exit(1);
    float *p = network_predict(net, im.data);
    if (net->hierarchy) hierarchy_predictions(p, net->outputs, net->hierarchy, 1, 1);
    fwrite(p, sizeof *p, net->outputs, file);
    fclose(file);
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    srand(argc > 4 ? atoi(argv[4]) : 1);
    network *net = parse_network_cfg(argv[2]);
    complete_batchnorm(net);
    if (strcmp(argv[1], "make") == 0 && argc == 5) {
        randomize(net);
        save_weights(net, argv[3]);
    } else if (strcmp(argv[1], "picture") == 0 && argc == 5) {
        save_image_options(load_image(argv[3], net->w, net->h, net->c), argv[4], PNG, 80);
    } else if (strcmp(argv[1], "run") == 0 && argc == 6) {
        load_weights(net, argv[3]);
        run(net, argv[4], argv[5]);
    } else if (strcmp(argv[1], "shapes") == 0) {
        for (int i = 0; i < net->n; i++) {
            layer l = net->layers[i];
            int flat = l.out_c * l.out_h * l.out_w == 0;
            printf("%d %d %d\n", flat ? l.outputs : l.out_c, flat ? 1 : l.out_h, flat ? 1 : l.out_w);
        }
    } else {
        return 2;
    }
    return 0;
}
