import { CfnOutput, Duration, RemovalPolicy, Stack, type StackProps } from "aws-cdk-lib";
import * as autoscaling from "aws-cdk-lib/aws-autoscaling";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecr from "aws-cdk-lib/aws-ecr";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as efs from "aws-cdk-lib/aws-efs";
import * as elb from "aws-cdk-lib/aws-elasticloadbalancingv2";
import * as iam from "aws-cdk-lib/aws-iam";
import * as logs from "aws-cdk-lib/aws-logs";
import * as rds from "aws-cdk-lib/aws-rds";
import * as s3 from "aws-cdk-lib/aws-s3";
import * as secrets from "aws-cdk-lib/aws-secretsmanager";
import type { Construct } from "constructs";
import { Delivery } from "./delivery.ts";

export interface KilnProps extends StackProps {
  /** The name that people type; its record points to the balancer. */
  readonly domain: string;
  /** Of that name, in AWS Certificate Manager. */
  readonly certificateArn: string;
  /** AWS's connection to the place of the sources. */
  readonly connectionArn: string;
  /** Of the sources, as owner/name. */
  readonly repository: string;
  /** With one GPU. */
  readonly instanceType?: string;
}

const uid = "10001";

/**
 * kiln for a team: the server and a worker that trains, each a container with a GPU in ECS on EC2; Postgres for what is said, S3
 * for files, EFS for models; a pipeline that tests, builds and deploys what is pushed.
 */
export class KilnStack extends Stack {
  readonly #vpc: ec2.Vpc;
  readonly #images: ecr.Repository;
  readonly #files: s3.Bucket;
  readonly #database: rds.DatabaseInstance;
  readonly #models: efs.FileSystem;
  readonly #places: Readonly<Record<"data" | "models", efs.AccessPoint>>;
  readonly #apiKey: secrets.Secret;
  readonly #logs: logs.LogGroup;

  constructor(scope: Construct, id: string, props: KilnProps) {
    super(scope, id, props);
    this.#vpc = new ec2.Vpc(this, "Network", {
      maxAzs: 2,
      natGateways: 1,
      subnetConfiguration: [
        { name: "public", subnetType: ec2.SubnetType.PUBLIC },
        { name: "work", subnetType: ec2.SubnetType.PRIVATE_WITH_EGRESS },
        { name: "data", subnetType: ec2.SubnetType.PRIVATE_ISOLATED },
      ],
      gatewayEndpoints: { S3: { service: ec2.GatewayVpcEndpointAwsService.S3 } },
    });
    this.#images = new ecr.Repository(this, "Images", {
      imageScanOnPush: true,
      imageTagMutability: ecr.TagMutability.IMMUTABLE,
      lifecycleRules: [{ maxImageCount: 20 }],
    });
    this.#files = this.#bucket();
    this.#database = this.#postgres();
    this.#models = new efs.FileSystem(this, "Models", { vpc: this.#vpc, encrypted: true });
    this.#places = { data: this.#place("data"), models: this.#place("models") };
    this.#apiKey = new secrets.Secret(this, "ApiKey", {
      description: "what programs send to /v1 and Prometheus to /metrics",
      generateSecretString: { excludePunctuation: true, passwordLength: 48 },
    });
    this.#logs = new logs.LogGroup(this, "Logs", { retention: logs.RetentionDays.ONE_MONTH });

    const cluster = this.#cluster(props.instanceType ?? "g4dn.xlarge");
    const origin = `https://${props.domain}`;
    const serving = `serve /models/demo --host 0.0.0.0 --port 8000 --allowed-origin ${origin}`;
    const server = this.#service(cluster, "Server", serving, 40);
    const worker = this.#service(cluster, "Worker", "jobs work", 120);
    this.#balance(server, props.certificateArn);
    const { connectionArn, repository } = props;
    new Delivery(this, "Delivery", {
      connectionArn,
      repository,
      images: this.#images,
      services: [server, worker],
    });
    new CfnOutput(this, "FilesBucket", { value: this.#files.bucketName });
    new CfnOutput(this, "ImageRepository", { value: this.#images.repositoryUri });
  }

  /** Not versioned: what somebody deletes shall be gone. */
  #bucket(): s3.Bucket {
    return new s3.Bucket(this, "Files", {
      blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
      encryption: s3.BucketEncryption.S3_MANAGED,
      enforceSSL: true,
      removalPolicy: RemovalPolicy.RETAIN,
      lifecycleRules: [{ abortIncompleteMultipartUploadAfter: Duration.days(1) }],
    });
  }

  #postgres(): rds.DatabaseInstance {
    return new rds.DatabaseInstance(this, "Database", {
      engine: rds.DatabaseInstanceEngine.postgres({ version: rds.PostgresEngineVersion.VER_17 }),
      instanceType: ec2.InstanceType.of(ec2.InstanceClass.T4G, ec2.InstanceSize.SMALL),
      vpc: this.#vpc,
      vpcSubnets: { subnetType: ec2.SubnetType.PRIVATE_ISOLATED },
      databaseName: "kiln",
      // The password stands in an address.
      credentials: rds.Credentials.fromGeneratedSecret("kiln", {
        excludeCharacters: " %+~`#$&*()|[]{}:;<>?!'/@\"\\^=,",
      }),
      storageEncrypted: true,
      allocatedStorage: 20,
      maxAllocatedStorage: 200,
      backupRetention: Duration.days(7),
      deletionProtection: true,
      removalPolicy: RemovalPolicy.SNAPSHOT,
    });
  }

  /** A folder of the file system that the image's user owns. */
  #place(name: string): efs.AccessPoint {
    return this.#models.addAccessPoint(`${name}-folder`, {
      path: `/${name}`,
      createAcl: { ownerUid: uid, ownerGid: uid, permissions: "750" },
      posixUser: { uid, gid: uid },
    });
  }

  #cluster(instanceType: string): ecs.Cluster {
    const cluster = new ecs.Cluster(this, "Cluster", { vpc: this.#vpc });
    const machines = new autoscaling.AutoScalingGroup(this, "Machines", {
      vpc: this.#vpc,
      instanceType: new ec2.InstanceType(instanceType),
      machineImage: ecs.EcsOptimizedImage.amazonLinux2(ecs.AmiHardwareType.GPU),
      minCapacity: 1,
      maxCapacity: 3,
      requireImdsv2: true,
      blockDevices: [
        { deviceName: "/dev/xvda", volume: autoscaling.BlockDeviceVolume.ebs(60, { encrypted: true }) },
      ],
    });
    const capacity = new ecs.AsgCapacityProvider(this, "Capacity", {
      autoScalingGroup: machines,
      enableManagedTerminationProtection: false,
      // ECS itself moves what runs from a machine that goes, so that the Lambda that CDK adds for it (0: none) is not needed.
      enableManagedDraining: true,
    });
    const options = { spotInstanceDraining: false, taskDrainTime: Duration.seconds(0) };
    cluster.addAsgCapacityProvider(capacity, options);
    return cluster;
  }

  /** One container with a GPU that runs a command of kiln; it alone may use the database, the files and the models. */
  #service(cluster: ecs.Cluster, name: string, command: string, stopSeconds: number): ecs.Ec2Service {
    const task = new ecs.Ec2TaskDefinition(this, `${name}Task`, {
      networkMode: ecs.NetworkMode.AWS_VPC,
      volumes: [
        ...Object.entries(this.#places).map(([volume, place]) => ({
          name: volume,
          efsVolumeConfiguration: {
            fileSystemId: this.#models.fileSystemId,
            transitEncryption: "ENABLED",
            authorizationConfig: { accessPointId: place.accessPointId, iam: "ENABLED" },
          },
        })),
        { name: "tmp" },
      ],
    });
    this.#permit(task.taskRole);
    const user = this.#database.secret!;
    const field = (key: string) => ecs.Secret.fromSecretsManager(user, key);
    const container = task.addContainer("kiln", {
      image: ecs.ContainerImage.fromEcrRepository(this.#images, "first"),
      // The address is made of the secret's fields, which the container alone sees.
      entryPoint: ["sh", "-c"],
      command: [
        `DATABASE_URL="postgres://$DB_USER:$DB_PASSWORD@$DB_HOST:$DB_PORT/kiln?sslmode=verify-full" exec node /app/bin/kiln.mjs ${command}`,
      ],
      environment: {
        KILN_BLOBS: `s3://${this.#files.bucketName}/files?region=${this.region}`,
        KILN_USERS: "multi",
        KILN_JOBS: "elsewhere",
        KILN_DATA_DIR: "/data",
        KILN_REGISTRY: "/data/registry",
      },
      secrets: {
        DB_USER: field("username"),
        DB_PASSWORD: field("password"),
        DB_HOST: field("host"),
        DB_PORT: field("port"),
        KILN_API_KEY: ecs.Secret.fromSecretsManager(this.#apiKey),
      },
      gpuCount: 1,
      memoryReservationMiB: 4096,
      user: `${uid}:${uid}`,
      readonlyRootFilesystem: true,
      stopTimeout: Duration.seconds(stopSeconds),
      portMappings: name === "Server" ? [{ containerPort: 8000 }] : [],
      logging: ecs.LogDrivers.awsLogs({ streamPrefix: name.toLowerCase(), logGroup: this.#logs }),
    });
    container.addMountPoints(
      { sourceVolume: "data", containerPath: "/data", readOnly: false },
      { sourceVolume: "models", containerPath: "/models", readOnly: true },
      { sourceVolume: "tmp", containerPath: "/tmp", readOnly: false },
    );
    const service = new ecs.Ec2Service(this, name, {
      cluster,
      taskDefinition: task,
      desiredCount: 1,
      // A running answer is one server's, and a GPU one container's: the old one ends before the new one begins.
      minHealthyPercent: 0,
      maxHealthyPercent: 100,
      circuitBreaker: { rollback: true },
      ...(name === "Server" && { healthCheckGracePeriod: Duration.minutes(3) }),
    });
    this.#database.connections.allowDefaultPortFrom(service);
    this.#models.connections.allowDefaultPortFrom(service);
    return service;
  }

  /** The files of the bucket's one prefix, and the file system through its two folders; nothing else of AWS. */
  #permit(role: iam.IRole): void {
    const allow = (actions: string[], resources: string[], conditions?: Record<string, unknown>) =>
      role.addToPrincipalPolicy(
        new iam.PolicyStatement({ actions, resources, ...(conditions && { conditions }) }),
      );
    allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], [this.#files.arnForObjects("files/*")]);
    // Of the whole bucket: who may not list it is told 403 of a file that is not there, not 404.
    allow(["s3:ListBucket"], [this.#files.bucketArn]);
    const places = Object.values(this.#places).map((place) => place.accessPointArn);
    allow(["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"], [this.#models.fileSystemArn], {
      StringEquals: { "elasticfilesystem:AccessPointArn": places },
    });
  }

  #balance(server: ecs.Ec2Service, certificateArn: string): void {
    const balancer = new elb.ApplicationLoadBalancer(this, "Balancer", {
      vpc: this.#vpc,
      internetFacing: true,
      // Longer than the longest silence of a stream.
      idleTimeout: Duration.minutes(10),
      dropInvalidHeaderFields: true,
    });
    const listener = balancer.addListener("Https", {
      port: 443,
      certificates: [elb.ListenerCertificate.fromArn(certificateArn)],
      sslPolicy: elb.SslPolicy.RECOMMENDED_TLS,
    });
    listener.addTargets("Kiln", {
      port: 8000,
      protocol: elb.ApplicationProtocol.HTTP,
      targets: [server],
      healthCheck: { path: "/ready", interval: Duration.seconds(10), healthyThresholdCount: 2 },
      deregistrationDelay: Duration.seconds(35),
    });
    new CfnOutput(this, "Address", { value: balancer.loadBalancerDnsName });
  }
}
