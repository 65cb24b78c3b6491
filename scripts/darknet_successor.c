/* Class probabilities of a picture by a successor of Darknet (https://github.com/AlexeyAB/darknet), for scripts/make-darknet-golden:
 * darknet_successor CFG WEIGHTS PICTURE OUT */
#include <stdio.h>
#include <stdlib.h>

#include "darknet.h"
#include "image.h"

int main(int argc, char **argv)
{
    if (argc != 5) return 2;
    network *net = load_network(argv[1], argv[2], 0);
    image im = load_image(argv[3], 0, 0, net->c);
    FILE *file = fopen(argv[4], "wb");
    if (im.w != net->w || im.h != net->h || !file) return 1;
    float *p = network_predict_ptr(net, im.data);
    fwrite(p, sizeof *p, net->outputs, file);
    return fclose(file) != 0;
}
